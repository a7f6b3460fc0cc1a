//! The app's directory on the import path of the worker.
//!
//! `celery -A` has the working directory on the path only during the import of the app: a module next to the app that a
//! task imports later would not be found. `python -m celery` keeps the directory on the path, and so does PYTHONPATH.

use std::collections::BTreeSet;
use std::path::Path;

use orch_journal::AppProblem;

/// The variable that Python reads.
const NAME: &str = "PYTHONPATH";

/// Suffixes of Python's module files.
const ENDS: [&str; 3] = [".py", ".pyc", ".so"];

/// Modules that Celery imports before the app. PYTHONPATH comes before Python's own directories: a file with one of
/// these names next to the app would be imported in place of the module, and the worker would not start.
#[rustfmt::skip]
const NEEDED: &[&str] = &[
    // Modules of Python.
    "abc", "argparse", "array", "ast", "asyncio", "atexit", "base64", "bdb", "binascii", "bisect", "bz2", "calendar", "cmath",
    "cmd", "code", "codecs", "codeop", "collections", "concurrent", "configparser", "contextlib", "contextvars", "copy",
    "copyreg", "csv", "ctypes", "dataclasses", "datetime", "dbm", "decimal", "difflib", "dis", "doctest", "email", "encodings",
    "enum", "errno", "faulthandler", "fcntl", "filecmp", "fileinput", "fnmatch", "fractions", "functools", "gc", "genericpath",
    "getopt", "getpass", "gettext", "glob", "graphlib", "grp", "gzip", "hashlib", "heapq", "hmac", "html", "http", "imp",
    "importlib", "inspect", "io", "ipaddress", "itertools", "json", "keyword", "linecache", "locale", "logging", "lzma",
    "marshal", "math", "mimetypes", "mmap", "multiprocessing", "netrc", "ntpath", "numbers", "opcode", "operator", "optparse",
    "os", "pathlib", "pdb", "pickle", "pkgutil", "platform", "plistlib", "posixpath", "pprint", "profile", "pwd",
    "py_compile", "pydoc", "queue", "quopri", "random", "re", "reprlib", "resource", "runpy", "sched", "secrets", "select",
    "selectors", "shelve", "shlex", "shutil", "signal", "site", "sitecustomize", "smtplib", "socket", "socketserver", "sqlite3",
    "sre_compile", "sre_constants", "sre_parse", "ssl", "stat", "statistics", "string", "stringprep", "struct", "subprocess",
    "symtable", "sys", "sysconfig", "syslog", "tarfile", "tempfile", "termios", "textwrap", "threading", "time", "timeit",
    "token", "tokenize", "tomllib", "trace", "traceback", "tracemalloc", "tty", "types", "typing", "unicodedata", "unittest",
    "urllib", "usercustomize", "uu", "uuid", "venv", "warnings", "wave", "weakref", "xml", "zipfile", "zipimport", "zlib",
    "zoneinfo",
    // Modules of Celery and of Celery's dependencies.
    "amqp", "async_timeout", "backports", "billiard", "cached_property", "celery", "click", "click_didyoumean",
    "click_plugins", "click_repl", "dateutil", "eventlet", "exceptiongroup", "gevent", "greenlet", "importlib_metadata",
    "kombu", "msgpack", "packaging", "pip", "pkg_resources", "prompt_toolkit", "pytz", "redis", "setuptools", "six",
    "typing_extensions", "tzdata", "tzlocal", "vine", "wcwidth", "yaml", "zope",
];

/// Puts the app's directory on the import path of a process that is about to be started there; returns the problem
/// if that is not possible.
pub fn extend(environment: &mut Vec<(String, String)>, directory: &Path) -> Option<AppProblem> {
    let current = environment.iter().find(|(name, _)| name == NAME);
    let current = current.map(|(_, value)| value.as_str());
    match import_path(directory, current, &module_names(directory)) {
        ImportPath::Set(value) => {
            environment.retain(|(name, _)| name != NAME);
            environment.push((NAME.to_owned(), value));
            None
        }
        ImportPath::Unchanged => None,
        ImportPath::Hidden(files) => Some(AppProblem::ModulesHidden {
            directory: directory.to_owned(),
            files,
        }),
    }
}

/// The change to the worker's import path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ImportPath {
    /// PYTHONPATH with the app's directory.
    Set(String),
    /// The directory is already on the path.
    Unchanged,
    /// Files next to the app that would be imported in place of modules that Celery needs.
    Hidden(Vec<String>),
}

/// Decides the change, from the PYTHONPATH that the worker would get and the names in the app's directory.
fn import_path(directory: &Path, now: Option<&str>, names: &BTreeSet<String>) -> ImportPath {
    let now = now.filter(|paths| !paths.is_empty());
    // An empty or relative entry refers to the working directory, which is the app's directory.
    let is_there = |paths: &str| paths.split(':').any(|path| directory.join(path) == *directory);
    if now.is_some_and(is_there) {
        return ImportPath::Unchanged;
    }
    let hidden: Vec<String> = names.iter().filter(|name| hides(name)).cloned().collect();
    if !hidden.is_empty() {
        return ImportPath::Hidden(hidden);
    }
    let directory = directory.to_string_lossy();
    // Colons separate the entries and cannot be escaped.
    match now {
        _ if directory.contains(':') => ImportPath::Unchanged,
        Some(now) => ImportPath::Set(format!("{directory}:{now}")),
        None => ImportPath::Set(directory.into_owned()),
    }
}

fn hides(name: &str) -> bool {
    let module = match ENDS.iter().any(|end| name.ends_with(end)) {
        true => name.split('.').next().unwrap_or_default(),
        false => name,
    };
    NEEDED.contains(&module)
}

/// Lists the names of Python modules and packages in a directory; empty if the directory cannot be read.
fn module_names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let modules = entries.filter(|entry| {
        let path = entry.path();
        let name = entry.file_name();
        let is_file = ENDS.iter().any(|end| name.to_string_lossy().ends_with(end)) && path.is_file();
        // A directory without `__init__.py` comes last in Python's search, in any entry of the path.
        is_file || path.join("__init__.py").is_file()
    });
    modules
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_comes_first_unless_it_is_there_or_hides_what_celery_needs() {
        let set = |path: &str| ImportPath::Set(path.to_owned());
        let hidden = |names: &[&str]| ImportPath::Hidden(names.iter().map(|name| (*name).to_owned()).collect());
        for (now, names, expected) in [
            (None, vec!["app.py", "websites.py"], set("/srv/app")),
            (Some(""), vec![], set("/srv/app")),
            (Some("/lib/one:/lib/two"), vec![], set("/srv/app:/lib/one:/lib/two")),
            (Some("/lib/one:/srv/app"), vec!["redis.py"], ImportPath::Unchanged),
            (Some("/srv/app/"), vec![], ImportPath::Unchanged),
            (Some("."), vec![], ImportPath::Unchanged),
            (Some("/lib:"), vec![], ImportPath::Unchanged),
            (Some("/srv/app/sub"), vec![], set("/srv/app:/srv/app/sub")),
            (None, vec!["app.py", "redis.py"], hidden(&["redis.py"])),
            (None, vec!["celery.py", "types.py"], hidden(&["celery.py", "types.py"])),
            (None, vec!["queue"], hidden(&["queue"])),
            (
                None,
                vec!["select.cpython-312-x86_64-linux-gnu.so"],
                hidden(&["select.cpython-312-x86_64-linux-gnu.so"]),
            ),
            (None, vec!["queues.py", "my.redis.txt"], set("/srv/app")),
        ] {
            let names = names.into_iter().map(str::to_owned).collect();
            assert_eq!(
                import_path(Path::new("/srv/app"), now, &names),
                expected,
                "{now:?} {names:?}"
            );
        }
        let odd = import_path(Path::new("/srv/a:b"), None, &BTreeSet::new());
        assert_eq!(odd, ImportPath::Unchanged, "a colon cannot be escaped");
    }

    #[test]
    fn modules_and_packages_are_seen_and_other_directories_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join("app.py"), "").unwrap();
        std::fs::write(path.join("json"), "").unwrap();
        std::fs::create_dir_all(path.join("email")).unwrap();
        std::fs::create_dir_all(path.join("shop")).unwrap();
        std::fs::write(path.join("shop/__init__.py"), "").unwrap();
        let names: Vec<String> = module_names(path).into_iter().collect();
        assert_eq!(names, ["app.py", "shop"]);
        assert!(module_names(&path.join("absent")).is_empty());
    }
}
