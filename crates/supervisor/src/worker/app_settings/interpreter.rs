//! The Python that runs the `celery` command.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use orch_base::files::regular;

/// Number of bytes of a program that are read: they contain the first two lines.
const HEAD: u64 = 1024;

/// Finds the interpreter: the one that the script's first line names, otherwise the one next to the program. Returns
/// `None` if the program is no Python script and has no interpreter in the same directory.
pub(crate) fn of_program(program: &Path, path: &str) -> Option<PathBuf> {
    let mut head = Vec::new();
    let opened = regular::open(program).ok()?;
    opened.take(HEAD).read_to_end(&mut head).ok()?;
    let named = named_in(&head).and_then(|name| match name {
        InterpreterName::Path(path) => Some(path),
        InterpreterName::Searched(name) => std::env::split_paths(path)
            .map(|part| part.join(&name))
            .find(|path| is_executable(path)),
    });
    let neighbours = program
        .parent()
        .into_iter()
        .flat_map(|directory| ["python3", "python"].map(|name| directory.join(name)));
    named.into_iter().chain(neighbours).find(|path| is_executable(path))
}

/// An interpreter as named in a script.
#[derive(Debug, PartialEq, Eq)]
enum InterpreterName {
    Path(PathBuf),
    /// A name that is looked up in PATH.
    Searched(PathBuf),
}

fn named_in(head: &[u8]) -> Option<InterpreterName> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?.strip_prefix(b"#!")?;
    let mut words = first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let program = words.next()?;
    let is_python = |path: &[u8]| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        name.starts_with(b"python") || name.starts_with(b"pypy")
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    if is_python(program) {
        return Some(InterpreterName::Path(path(program)));
    }
    if program.ends_with(b"/env") {
        let searched = words.find(|word| !word.starts_with(b"-"))?;
        return is_python(searched).then(|| InterpreterName::Searched(path(searched)));
    }
    // If the path is too long for the kernel, or contains a space, installers write a shell script:
    // '''exec' "/long/path/python" "$0" "$@"
    let second = lines.next()?.strip_prefix(b"'''exec' ")?;
    let quoted = match second.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|byte| *byte == b'"').next()?,
        None => second.split(|byte| *byte == b' ').next()?,
    };
    is_python(quoted).then(|| InterpreterName::Path(path(quoted)))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_installed_scripts_name_the_interpreter() {
        let path = |text: &str| Some(InterpreterName::Path(PathBuf::from(text)));
        for (head, expected) in [
            (
                "#!/srv/app/.venv/bin/python\nimport re\n",
                path("/srv/app/.venv/bin/python"),
            ),
            ("#!/usr/bin/python3.11 -s\n", path("/usr/bin/python3.11")),
            ("#! /opt/pypy3\n", path("/opt/pypy3")),
            (
                "#!/usr/bin/env python3\n",
                Some(InterpreterName::Searched(PathBuf::from("python3"))),
            ),
            (
                "#!/usr/bin/env -S python3 -u\n",
                Some(InterpreterName::Searched(PathBuf::from("python3"))),
            ),
            (
                "#!/bin/sh\n'''exec' \"/a b/python3\" \"$0\" \"$@\"\n' '''\n",
                path("/a b/python3"),
            ),
            (
                "#!/bin/sh\n'''exec' /long/python3 \"$0\" \"$@\"\n' '''\n",
                path("/long/python3"),
            ),
            ("#!/bin/sh\nexec docker run app celery \"$@\"\n", None),
            ("#!/usr/bin/env bash\n", None),
            ("\u{7f}ELF", None),
            ("", None),
            ("#!\n", None),
        ] {
            assert_eq!(named_in(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn a_wrapper_has_the_interpreter_next_to_it_or_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("celery");
        std::fs::write(&program, "#!/bin/sh\nexec docker run app celery\n").expect("written");
        assert_eq!(of_program(&program, "/usr/bin"), None);
        let python = directory.path().join("python3");
        std::os::unix::fs::symlink("/bin/sh", &python).expect("a link");
        assert_eq!(of_program(&program, "/usr/bin"), Some(python));
        assert_eq!(of_program(&directory.path().join("absent"), "/usr/bin"), None);
    }
}
