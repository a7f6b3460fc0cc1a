//! Text, files, sockets, processes and memory as the kernel shows them, the clocks and topological order for all other
//! crates.

#![forbid(unsafe_code)]

pub mod boot_clock;
pub mod files;
pub mod median;
pub mod names;
pub mod net;
pub mod system;
pub mod text;
pub mod topological_order;
pub mod wall_clock;

#[cfg(test)]
#[path = "../../../tests/support/skip.rs"]
mod skip;
