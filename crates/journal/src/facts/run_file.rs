//! Files of a run that could not be read, written or removed, as events name them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::event_values::NoticeLevel;

/// Purpose of a file that orch reads, writes or removes during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunFile {
    /// The journal is written.
    Journal,
    /// The summary is written.
    Summary,
    /// orch's own log is created.
    Log,
    /// The chosen ports are written.
    Ports,
    /// The description of the running instance is written.
    Instance,
    /// The description of the running instance is removed at the stop.
    EndedInstance,
    /// The files of dead runs are removed.
    DeadRuns,
    /// The requests of other commands are read.
    Requests,
}

/// Failed use of a file; the run goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFileFailure {
    pub file: RunFile,
    /// The file, or the directory that contains the files.
    pub path: PathBuf,
    pub reason: String,
}

impl RunFileFailure {
    /// Returns the level of the notice.
    pub fn level(&self) -> NoticeLevel {
        match self.file {
            // Without these files the record of the run is lost.
            RunFile::Journal | RunFile::Summary => NoticeLevel::Error,
            RunFile::Log
            | RunFile::Ports
            | RunFile::Instance
            | RunFile::EndedInstance
            | RunFile::DeadRuns
            | RunFile::Requests => NoticeLevel::Warning,
        }
    }
}
