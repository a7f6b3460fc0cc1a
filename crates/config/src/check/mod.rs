//! Checks that need more than one section.

pub(crate) mod ports;
pub(crate) mod programs;
pub(crate) mod service_order;
pub(crate) mod site_order;
pub(crate) mod templates;
