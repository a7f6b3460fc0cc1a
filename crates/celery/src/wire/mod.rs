//! Wire formats and key names of Celery over Redis.

pub(crate) mod chord_member;
pub(crate) mod envelope;
#[cfg(test)]
pub(crate) mod frames;
pub(crate) mod ids;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod message;
pub(crate) mod python_base64;
pub(crate) mod python_repr;
pub(crate) mod scalar_value;
pub(crate) mod task_outcome;
pub(crate) mod transport_settings;
