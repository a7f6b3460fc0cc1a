//! Values of result keys as Redis stores them.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::redis::connection::CommandConnection;
use crate::wire::ids::TaskId;
use crate::wire::json;

/// Largest number of tasks in one SUBSCRIBE or in one pipeline of reads.
pub(crate) const BATCH: usize = 200;
/// Number of bytes that are read of a result: one byte above the limit, so that a longer result is detected.
pub(crate) const MAX_READ: usize = json::SIZE_LIMIT + 1;

/// Reads the first bytes of the values of keys; empty if a key does not exist. `Err` if a key holds another type of
/// value; the other values are still returned.
pub(crate) async fn read(
    backend: &CommandConnection,
    keys: &[String],
    bytes: usize,
    within: Duration,
) -> Result<Vec<Result<Vec<u8>, String>>> {
    let action = "read task results";
    let mut reads = redis::pipe();
    reads.ignore_errors();
    for key in keys {
        reads.cmd("GETRANGE").arg(key).arg(0).arg(bytes - 1);
    }
    let values: Vec<redis::RedisResult<Vec<u8>>> = backend.query(action, &reads, within).await?;
    let read = values.into_iter().map(|value| match value {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(Err(error.to_string())),
        Err(error) => Err(backend.connector().error(&error, action)),
    });
    read.collect()
}

pub(crate) fn unreadable(id: &TaskId, reason: String) -> Error {
    Error::malformed(format!("the result of task {id}"), reason)
}
