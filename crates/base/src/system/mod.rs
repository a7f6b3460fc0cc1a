//! Processes, the control group and the memory of the machine, as files of the kernel show them.

pub mod memory;
pub mod own_group;
pub mod processes;
pub mod tree_use;
