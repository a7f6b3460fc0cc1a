//! Memory of the machine: how much there is for further work, and whether a further site may begin.
//!
//! Not here: which site is next (`sites::schedule`), and what a worker holds of it (`services`).

mod gate;
mod reading;
mod size;

pub use gate::{Admissions, Gate, News, Shortage, Sites};
pub use reading::{Reader, Reading};
pub use size::shown;
