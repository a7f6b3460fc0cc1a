//! The errors of the owner's side.

use std::io;
use std::time::Duration;

use orch_base::text::duration_text::shown;

/// The reason why the guard cannot do what was ordered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`orch::guard::init()` has not run: it must be the first line of `main`, since the guard is this program started again"
    )]
    NotInitialised,
    #[error("could not start the guard")]
    Start(#[source] io::Error),
    #[error("{0}")]
    Spawn(String),
    #[error("the guard is gone")]
    Gone,
    #[error("the stop has not ended within {}; the guard and what was left were killed", shown(*.bound))]
    StopTooSlow { bound: Duration },
    #[error("the guard is gone, and some of its processes may be alive: {0}")]
    Uncertain(String),
    #[error("the stop has not ended within {}: {left}", shown(*.bound))]
    NotEnded { bound: Duration, left: String },
}
