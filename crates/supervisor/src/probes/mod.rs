//! Readiness and liveness probes of a service.

pub(crate) mod http;
pub(crate) mod probe;
pub(crate) mod suspend_aware;
