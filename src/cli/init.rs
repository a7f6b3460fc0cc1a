//! `orch init`: writes the example project, embedded in the program, into a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::say;
use super::{Refusal, shell};
use crate::run::Outcome;

/// Writes the bookshop example (a Celery project, its web sites and proxies) into a directory
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Where to; made if it does not exist
    #[arg(default_value = "bookshop", value_name = "DIR")]
    directory: PathBuf,
    /// Write into a directory that is not empty; files of the example's names are replaced, and named
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &InitArgs) -> anyhow::Result<u8> {
    let directory = &args.directory;
    let failed = |error: io::Error| {
        let text = format!("write the example into {}: {error}", directory.display());
        Refusal::because(Outcome::InfrastructureFailed, text)
    };
    if !args.force && !is_empty(directory).map_err(failed)? {
        let text = format!(
            "{} is not empty: the example would mix with what is there\n  hint:  name another directory, or write into this one with \
             `--force`",
            directory.display()
        );
        return Err(Refusal::because(Outcome::ConfigurationError, text));
    }
    for name in replaced(directory) {
        fs::remove_file(directory.join(name)).map_err(failed)?;
        say(&format!("replaced: {name}"));
    }
    let written = write_example(directory).map_err(failed)?;
    say(&format!(
        "{written} files written; see {}",
        directory.join("README.md").display()
    ));
    let (directory, program) = (shell::quoted(directory), shell::program());
    say(&format!("next:  cd {directory}"));
    say(&format!("       {program} run"));
    Ok(0)
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Files of the example's names that are something else.
fn replaced(directory: &Path) -> Vec<&'static str> {
    let differs = |(name, text): &&(&'static str, &str)| match fs::read(directory.join(name)) {
        Ok(found) => found != text.as_bytes(),
        Err(_) => false,
    };
    EXAMPLE.iter().filter(differs).map(|(name, _)| *name).collect()
}

/// Writes every file of the example that is not there already (a changed one is the user's); how many were written.
pub fn write_example(directory: &Path) -> io::Result<usize> {
    let mut written = 0;
    for (name, text) in EXAMPLE {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                io::Write::write_all(&mut file, text.as_bytes())?;
                written += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

macro_rules! example {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../examples/bookshop/", $name)))),*]
    };
}

/// Path within the example and text of each of its files.
pub const EXAMPLE: &[(&str, &str)] = example![
    ".gitignore",
    "README.md",
    "bad-night.toml",
    "bookshop/__init__.py",
    "bookshop/celery.py",
    "bookshop/fetch.py",
    "bookshop/files.py",
    "bookshop/listings.py",
    "bookshop/pool.py",
    "bookshop/progress.py",
    "bookshop/proxies.py",
    "bookshop/scraping.py",
    "bookshop/settings.py",
    "orch.toml",
    "requirements.txt",
    "shop/__init__.py",
    "shop/catalogue.py",
    "shop/forward.py",
    "shop/judge.py",
    "shop/pages.py",
    "shop/prepare.py",
    "shop/server.py",
    "shop/site.py",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The list is written by hand; a file that is forgotten would be missing at the user's.
    #[test]
    fn every_file_of_the_example_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookshop");
        let mut found = Vec::new();
        let mut pending = vec![root.clone()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                // What a run in the checkout leaves there.
                let left = [".orch", ".venv", "out", "var", "__pycache__"];
                if path.is_dir() {
                    if !left.contains(&path.file_name().unwrap().to_string_lossy().as_ref()) {
                        pending.push(path);
                    }
                } else if !["candidates.txt", "live_proxies.json"].contains(&name.as_str()) {
                    found.push(name);
                }
            }
        }
        found.sort();
        let embedded: Vec<&str> = EXAMPLE.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, embedded);
    }

    #[test]
    fn a_changed_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(write_example(directory.path()).unwrap(), EXAMPLE.len());
        fs::write(directory.path().join("orch.toml"), "mine").unwrap();
        assert_eq!(write_example(directory.path()).unwrap(), 0);
        assert_eq!(fs::read_to_string(directory.path().join("orch.toml")).unwrap(), "mine");
    }
}
