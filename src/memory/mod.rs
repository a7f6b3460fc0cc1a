//! Memory of the machine: how much there is for further work, and whether a further site may begin; and what orch gives back
//! of its own.
//!
//! Not here: which site is next (`sites::schedule`), and what a worker holds of it (`services`).

mod gate;
pub mod program_pages;
mod reading;
mod size;

pub use gate::{Admissions, Gate, News, Shortage, Sites};
pub use reading::{Reader, Reading};
pub use size::shown;
