//! `orch init`: writes the example project, which is embedded in the program, into a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::print_message;
use super::{CommandError, shell};

/// Writes the bookshop example (a Celery project, its web sites and proxies) into a directory
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Target directory; created if it does not exist
    #[arg(default_value = "bookshop", value_name = "DIR")]
    directory: PathBuf,
    /// Write into a directory that is not empty; replaces and lists files with names of the example's files
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &InitArgs) -> anyhow::Result<u8> {
    let directory = &args.directory;
    let failed =
        |error: io::Error| anyhow::anyhow!("could not write the example into {}: {error}", directory.display());
    if !args.force && !is_empty(directory).map_err(failed)? {
        let text = format!(
            "{} is not empty: the example's files would mix with the existing files\n  hint:  name another directory, or use \
             `--force` to write into this one",
            directory.display()
        );
        return Err(CommandError::usage(text));
    }
    for name in replaced(directory) {
        fs::remove_file(directory.join(name)).map_err(failed)?;
        print_message(&format!("replaced: {name}"));
    }
    let written = write_example(directory).map_err(failed)?;
    print_message(&format!(
        "{written} files written; see {}",
        directory.join("README.md").display()
    ));
    let (directory, program) = (shell::quoted(directory), shell::program());
    print_message(&format!("next:  cd {directory}"));
    print_message(&format!("       {program} run"));
    Ok(0)
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Returns the existing files that have the name of an example file and a different content.
fn replaced(directory: &Path) -> Vec<&'static str> {
    let differs = |(name, text): &&(&'static str, &str)| match fs::read(directory.join(name)) {
        Ok(found) => found != text.as_bytes(),
        Err(_) => false,
    };
    EXAMPLE.iter().filter(differs).map(|(name, _)| *name).collect()
}

/// Writes every file of the example that does not exist yet and returns the number of written files. A changed file
/// belongs to the user and stays.
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

/// Path and text of each file of the example.
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

    /// Checks the list of files, which is written by hand: a forgotten file would be missing in the user's copy.
    #[test]
    fn every_file_of_the_example_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookshop");
        let mut found = Vec::new();
        let mut pending = vec![root.clone()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                // A run in the checkout creates these directories.
                let of_runs = [".orch", ".venv", "out", "var", "__pycache__"];
                if path.is_dir() {
                    if !of_runs.contains(&path.file_name().unwrap().to_string_lossy().as_ref()) {
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
