//! Output that Python keeps in a buffer: an empty log does not prove that the program did nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const VARIABLE: &str = "PYTHONUNBUFFERED";
/// Number of bytes that are read of a script's first line.
const FIRST_LINE: u64 = 256;

/// Returns true if a running process, or a descendant, is a Python that buffers output.
pub(crate) fn runs_buffered(pid: i32) -> bool {
    let tree = orch_base::system::processes::tree(pid).unwrap_or_default();
    let below = tree.iter().map(|process| process.pid);
    std::iter::once(pid).chain(below).any(|pid| {
        let is_python = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| is_python(&program));
        is_python && !has_option(&list(pid, "cmdline")) && !list(pid, "environ").iter().any(|entry| is_set(entry))
    })
}

/// Returns true if a command that has ended was a Python that buffers output.
pub(crate) fn starts_buffered(argv: &[String], environment: &[(String, String)], directory: &Path) -> bool {
    let Some(program) = argv.first() else { return false };
    let is_unbuffered = environment
        .iter()
        .any(|(name, value)| name == VARIABLE && !value.is_empty());
    let path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map(|(_, path)| path.as_str());
    !is_unbuffered && !has_option(argv) && (is_python(Path::new(program)) || is_script(program, path, directory))
}

/// Reads a file of a process in which a zero byte ends each entry.
fn list(pid: i32, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .map(|entry| String::from_utf8_lossy(entry).into_owned())
        .collect()
}

fn is_set(entry: &str) -> bool {
    entry
        .split_once('=')
        .is_some_and(|(name, value)| name == VARIABLE && !value.is_empty())
}

/// Returns true if Python is given `-u` among the options before the script.
fn has_option(argv: &[String]) -> bool {
    let mut options = argv.iter().skip(1).take_while(|word| word.starts_with('-'));
    options.any(|word| !word.starts_with("--") && word.contains('u'))
}

fn is_python(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let rest = name.strip_prefix("python").or_else(|| name.strip_prefix("pypy"));
    rest.is_some_and(|rest| rest.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()))
}

/// Returns true if the program is a script with a first line that names Python.
fn is_script(program: &str, path: Option<&str>, directory: &Path) -> bool {
    let candidates: Vec<PathBuf> = match program.contains('/') {
        true => vec![directory.join(program)],
        false => path
            .into_iter()
            .flat_map(|path| path.split(':'))
            .map(|below| Path::new(below).join(program))
            .collect(),
    };
    let Some(Ok(file)) = candidates.iter().map(fs::File::open).find(Result::is_ok) else {
        return false;
    };
    let mut line = Vec::new();
    if BufReader::new(file.take(FIRST_LINE))
        .read_until(b'\n', &mut line)
        .is_err()
    {
        return false;
    }
    let line = String::from_utf8_lossy(&line);
    let Some(words) = line.strip_prefix("#!") else {
        return false;
    };
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let interpreter = words.iter().position(|word| is_python(Path::new(word)));
    interpreter.is_some_and(|at| !has_option(words.get(at..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_is_known_by_its_name_or_its_first_line() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, line) in [
            ("app", "#!/usr/bin/env python3"),
            ("loud", "#!/usr/bin/python3 -u"),
            ("other", "#!/bin/sh"),
        ] {
            fs::write(directory.path().join(name), format!("{line}\n")).expect("a file");
        }
        let unbuffered = [(VARIABLE.to_owned(), "1".to_owned())];
        let buffered = |words: &[&str], environment: &[(String, String)]| {
            let argv: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            starts_buffered(&argv, environment, directory.path())
        };
        for words in [
            &["python3", "x.py"][..],
            &["/usr/bin/python3.13", "-m", "x"],
            &["./app"],
            &["python", "x.py", "-u"],
        ] {
            assert!(buffered(words, &[]), "{words:?}");
            assert!(!buffered(words, &unbuffered), "{words:?}");
        }
        for words in [
            &["python3", "-u", "x.py"][..],
            &["./loud"],
            &["./other"],
            &["pythonic"],
            &["sleep", "1"],
            &[],
        ] {
            assert!(!buffered(words, &[]), "{words:?}");
        }
    }
}
