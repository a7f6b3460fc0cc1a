//! Problems of the app that a worker loads, as events state them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::event_values::NoticeLevel;

/// Problem of the app; the app works nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppProblem {
    /// The transport settings of the app are unknown; Celery's defaults are used.
    SettingsUnknown { app: String, reason: String },
    /// The app sets these options, and its worker does not report the values; Celery's defaults are used.
    SettingsHidden {
        app: String,
        options: Vec<String>,
        /// Reason why the app itself could not be asked.
        reason: String,
    },
    /// The app's directory is not put on the import path, because these files in it would be imported in place of
    /// modules that Celery needs.
    ModulesHidden { directory: PathBuf, files: Vec<String> },
}

impl AppProblem {
    /// Returns the level of the notice.
    pub fn level(&self) -> NoticeLevel {
        match self {
            Self::ModulesHidden { .. } => NoticeLevel::Info,
            Self::SettingsUnknown { .. } | Self::SettingsHidden { .. } => NoticeLevel::Warning,
        }
    }
}
