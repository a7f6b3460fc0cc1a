//! Sockets of this machine: free ports, and the owners of sockets in the tables of the kernel.

pub mod free_port;
pub mod listener;
pub mod socket_owner;
