//! A `.env` file that has a missing variable and is not read, as events and failures name it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// File that has a variable which a site or a service misses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadEnvFile {
    pub file: PathBuf,
    pub variable: String,
    /// Value of `[orch] env_file` that reads the file.
    pub setting: PathBuf,
}

impl fmt::Display for UnreadEnvFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            variable,
            setting,
        } = self;
        write!(
            formatter,
            "{} has `{variable}`, but is not read: set `[orch] env_file = \"{}\"` to read it",
            file.display(),
            setting.display()
        )
    }
}
