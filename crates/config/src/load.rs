//! Loading of a configuration: finds the file, applies the overrides, reads everything, and returns either a checked
//! [`Config`] or all its problems.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::check::programs::ServiceEnvironment;
use crate::check::{ports, service_order, site_order};
use crate::model::{Config, RedisMode};
use crate::overrides;
use crate::overrides::Override;
use crate::read::SitesFile;
use crate::read::load_context::LoadContext;
use crate::read::section::Section;
use crate::read_text::read_text;
use crate::syntax::problem::{ConfigErrors, Problem};
use crate::syntax::source::SourceSpan;
use crate::syntax::toml;
use crate::syntax::tree;
use crate::syntax::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue, mask_secrets};
use crate::{env_file, paths, read, sites_file};

/// Largest configuration or env_file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// Inputs of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--set section.key=value`; later ones win.
    pub overrides: Vec<String>,
    /// The caller's variables; of one name the last wins.
    pub environment: Vec<(String, String)>,
    /// The caller's working directory; a relative or empty one is resolved from the working directory of this process.
    pub directory: PathBuf,
    /// `[ports]` of an instance that is up, used instead of choosing free ports.
    pub known_ports: BTreeMap<String, u16>,
    /// Colours errors.
    pub color: bool,
}

impl LoadOptions {
    /// Returns the options of this process: its variables (those that are UTF-8) and its working directory, without
    /// colour.
    pub fn of_this_process() -> Self {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        Self {
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .collect(),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            ..Self::default()
        }
    }

    fn variables(&self) -> BTreeMap<String, String> {
        self.environment.iter().cloned().collect()
    }
}

impl Config {
    /// Finds the file (`--config`, `ORCH_CONFIG`, `./orch.toml`, `./config/orch.toml`), applies the overrides (file <
    /// environment < `--set`) and checks the result. Free ports of `[ports]` are chosen here; nothing is started.
    ///
    /// # Errors
    /// All problems of the configuration, each with its position and a hint.
    pub fn load(options: LoadOptions) -> Result<Self, ConfigErrors> {
        load_with_keys(options).map(|(config, _)| config)
    }
}

/// Loads the configuration; also returns every key that was looked up.
pub(crate) fn load_with_keys(mut options: LoadOptions) -> Result<(Config, BTreeSet<String>), ConfigErrors> {
    if options.directory.is_relative() {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        options.directory = paths::join(&here, &options.directory);
    }
    let no_file = |problem: Problem| {
        let reading = LoadContext::new(PathBuf::new());
        reading.report(problem);
        reading.problems.into_errors(&reading.sources, None, options.color)
    };
    let file = find(&options).map_err(no_file)?;
    let text = read_text(&file, MAX_FILE_SIZE).map_err(|why| {
        let problem = Problem::new(format!("the configuration `{}` cannot be read: {why}", file.display()));
        no_file(problem)
    })?;
    let base = file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let reading = LoadContext::new(base);
    let config = read_all(&reading, &options, &file, &text);
    if reading.problems.is_empty() {
        return Ok((config, reading.known_keys.into_inner()));
    }
    let name = file.display().to_string();
    Err(reading
        .problems
        .into_errors(&reading.sources, Some(&name), options.color))
}

/// Finds the file to read and returns the absolute path.
fn find(options: &LoadOptions) -> Result<PathBuf, Problem> {
    let by_variable = options
        .variables()
        .remove("ORCH_CONFIG")
        .filter(|path| !path.is_empty());
    let named = match (&options.file, by_variable) {
        (Some(file), _) => Some(("--config", file.clone())),
        (None, Some(file)) => Some(("the variable ORCH_CONFIG", PathBuf::from(file))),
        (None, None) => None,
    };
    if let Some((by, file)) = named {
        let path = paths::join(&options.directory, file);
        return match path.try_exists() {
            Ok(true) => Ok(path),
            Ok(false) => {
                let problem = Problem::new(format!("there is no configuration `{}`", path.display()));
                Err(problem.help(format!("named by {by}")))
            }
            Err(error) => Err(unreachable(&path, &error).help(format!("named by {by}"))),
        };
    }
    let usual = ["orch.toml", "config/orch.toml"].map(|name| paths::join(&options.directory, name));
    for path in &usual {
        match path.try_exists() {
            Ok(true) => return Ok(path.clone()),
            Ok(false) => {}
            // Using the next file instead would surprise the user.
            Err(error) => return Err(unreachable(path, &error)),
        }
    }
    let mut problem = Problem::new("there is no configuration")
        .help("tried `--config` (not given)")
        .help("tried the variable ORCH_CONFIG (not set)");
    for path in &usual {
        problem = problem.help(format!("tried {}", path.display()));
    }
    Err(problem)
}

/// Reports a path that cannot be checked: a directory above it is not accessible, or the disk does not respond.
fn unreachable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!(
        "the configuration `{}` cannot be reached: {error}",
        path.display()
    ))
}

fn read_all(reading: &LoadContext, options: &LoadOptions, file: &Path, text: &str) -> Config {
    let problems = &reading.problems;
    let source = reading.sources.add(paths::shown(file, &options.directory), text);
    let mut tree = match tree::check_size(source, text) {
        Ok(()) => toml::document(source, text, problems),
        Err(problem) => {
            problems.push(problem.syntax(true));
            SyntaxTable::default()
        }
    };
    mask_secrets(&tree, &reading.sources);
    let overrides = overrides::read(&options.environment, &options.overrides, &reading.sources, problems);
    let (of_sites, others): (Vec<_>, Vec<_>) = overrides.into_iter().partition(Override::is_of_sites);
    for change in others {
        change.apply(&mut tree, problems);
    }
    let ports = ports::ports(&Section::root(reading, &tree), &options.known_ports);
    let substitute = |node: &mut SyntaxNode| ports::substitute(node, &ports, reading);
    tree.entries.iter_mut().for_each(|(_, node)| substitute(node));

    let (mut orch, env_file_at, sites_file) = read::orch(&Section::root(reading, &tree));
    let caller = options.variables();
    let mut variables = BTreeMap::new();
    if let (Some(path), Some(at)) = (&orch.env_file, env_file_at) {
        orch.env_file_variables = read_env_file(reading, path, at, &caller);
        variables.extend(orch.env_file_variables.iter().cloned());
    }
    variables.extend(caller);

    let sites_file = add_sites(reading, &mut tree, sites_file, of_sites, substitute);
    let root = Section::root(reading, &tree);
    let surroundings = ServiceEnvironment::new(&reading.base, variables);
    let celery = read::celery(&root, &orch.state_dir, orch.log, &surroundings);
    let no_sites = SyntaxTable::default();
    let sites = match tree.get("sites").map(|node| &node.value) {
        Some(SyntaxValue::Table(table)) => table,
        _ => &no_sites,
    };
    let resources = read::resources(&root);
    let sites = read::sites(reading, sites, sites_file, &resources);
    let log = orch.log;
    let config = Config {
        file: file.to_path_buf(),
        orch,
        redis: read::redis(&root, log, &surroundings),
        celery,
        proxies: read::proxies(&root),
        groups: read::groups(&root, &sites),
        sites,
        services: read::services(&root, log, &surroundings),
        resources,
        ports,
    };
    if config.redis.mode == RedisMode::Off && config.celery.enabled {
        reading.report(crate::read::celery::needs_redis(&root));
    }
    let can_refresh = config.proxies.enabled && !config.proxies.refresh.is_empty();
    if let (Some(at), false) = (*reading.refresh_required_at.borrow(), can_refresh) {
        let problem = Problem::new("the proxies cannot be refreshed");
        let label = "`[proxies] refresh` has no task";
        reading.report(problem.at(at, label));
    }
    read::check_queues(&root, &config);
    read::check_redis_variables(&root, &config);
    for section in ["orch", "ports", "sites"] {
        root.section(section);
    }
    root.finish();
    service_order::check(reading, &config);
    site_order::check(reading, &config.sites);
    config
}

fn read_env_file(
    reading: &LoadContext,
    path: &Path,
    at: SourceSpan,
    caller: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    match read_text(path, MAX_FILE_SIZE) {
        Ok(text) => {
            let source = reading.sources.add(paths::shown(path, &reading.base), text.as_str());
            env_file::parse(reading, source, &text, caller)
        }
        Err(why) => {
            let title = format!("the env_file `{}` cannot be read", path.display());
            reading.report(Problem::new(title).at(at, why));
            Vec::new()
        }
    }
}

/// Completes `[sites]`: adds the sites of the sites file, then applies the overrides of any site.
fn add_sites(
    reading: &LoadContext,
    tree: &mut SyntaxTable,
    file: Option<(PathBuf, SourceSpan)>,
    overrides: Vec<Override>,
    substitute: impl Fn(&mut SyntaxNode),
) -> Option<SitesFile> {
    let mut joined = None;
    if let Some((path, at)) = file {
        if tree.get("sites").is_none() {
            let name = "sites".to_owned();
            let none = SyntaxNode::table(Vec::new(), at);
            tree.entries.push((Key { name, span: at }, none));
        }
        let sites = tree.entries.iter_mut().find(|(key, _)| key.name == "sites");
        if let Some(SyntaxValue::Table(sites)) = sites.map(|(_, node)| &mut node.value) {
            joined = sites_file::join(reading, &path, at, sites, &substitute).map(|source| {
                let of_file = sites.entries.iter().filter(|(key, _)| key.span.source == source);
                let names = of_file.map(|(key, _)| key.name.clone()).collect();
                SitesFile { path, names, at }
            });
        }
    }
    for mut change in overrides {
        substitute(&mut change.node);
        change.apply(tree, &reading.problems);
    }
    joined
}
