//! The command of the orch that holds a lock.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Command of a holder; lock files contain its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderCommand {
    Run,
    Up,
    Clean,
    /// A command of another version of orch.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for HolderCommand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Run => "run",
            Self::Up => "up",
            Self::Clean => "clean",
            Self::Other(name) => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_files_contain_the_name_of_any_command() {
        for (command, name) in [
            (HolderCommand::Run, "run"),
            (HolderCommand::Up, "up"),
            (HolderCommand::Clean, "clean"),
            (HolderCommand::Other("prepare".to_owned()), "prepare"),
        ] {
            assert_eq!(command.to_string(), name);
            let json = serde_json::to_string(&command).unwrap();
            assert_eq!(json, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<HolderCommand>(&json).unwrap(), command);
        }
    }
}
