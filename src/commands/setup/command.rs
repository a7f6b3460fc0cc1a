//! The command: chooses the texts, prints them, or installs them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use nix::unistd::{Uid, User};

use super::crontab;
use super::systemd_unit::{MARK, SystemdUnit, UnitValues};
use crate::commands::output::{print, print_message};
use crate::commands::{CommandError, ConfigArgs};
use orch_config::Config;

/// Prints the systemd units or the cron line that start orch for this project; `--write` installs them
#[derive(Args, Debug)]
pub struct SetupArgs {
    #[command(subcommand)]
    starter: SetupTarget,
}

#[derive(Subcommand, Debug)]
enum SetupTarget {
    /// Prints the units of systemd: a nightly run with its timer, or a service that keeps `orch up` running
    Systemd(SystemdArgs),
    /// Prints the line of cron for a nightly run
    Cron(CronArgs),
}

#[derive(Args, Debug)]
struct SystemdArgs {
    /// Time of day of the nightly run, `HH:MM`
    #[arg(long, default_value = "02:30", value_name = "HH:MM", value_parser = time_of_day)]
    at: (u8, u8),
    /// Keep `orch up` running instead of a nightly run (the only choice without sites)
    #[arg(long)]
    up: bool,
    /// Units of the system instead of the user's own
    #[arg(long)]
    system: bool,
    /// Install the files
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Args, Debug)]
struct CronArgs {
    /// Time of day of the nightly run, `HH:MM`
    #[arg(long, default_value = "02:30", value_name = "HH:MM", value_parser = time_of_day)]
    at: (u8, u8),
    /// Install the line in the user's crontab
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

fn time_of_day(text: &str) -> Result<(u8, u8), String> {
    let wrong = || format!("`{text}` is no time of day, such as 02:30");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str, limit: u8| {
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|number| is_number && *number < limit)
            .ok_or_else(wrong)
    };
    Ok((number(hour, 24)?, number(minute, 60)?))
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &SetupArgs) -> anyhow::Result<u8> {
    match &args.starter {
        SetupTarget::Systemd(args) => systemd(args),
        SetupTarget::Cron(args) => cron(args),
    }
}

/// Absolute paths of the program, the configuration and the project.
struct ProjectPaths {
    program: PathBuf,
    config: PathBuf,
    directory: PathBuf,
}

impl ProjectPaths {
    fn of(config: &Config) -> anyhow::Result<Self> {
        let program = std::env::current_exe()
            .map_err(|error| anyhow::anyhow!("could not find the path of this program\n  cause: {error}"))?;
        let file = std::path::absolute(&config.file).map_err(|error| {
            anyhow::anyhow!("could not find the path of {}\n  cause: {error}", config.file.display())
        })?;
        let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
        Ok(Self {
            program,
            config: file,
            directory,
        })
    }
}

fn systemd(args: &SystemdArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let paths = ProjectPaths::of(&config)?;
    let user = match args.system {
        true => Some(project_user(&paths.directory)?),
        false => None,
    };
    let values = UnitValues {
        program: &paths.program,
        config: &paths.config,
        directory: &paths.directory,
        instance: &config.orch.instance,
        user: user.as_deref(),
    };
    let (hour, minute) = args.at;
    let units: Vec<SystemdUnit> = if args.up || config.sites.is_empty() {
        vec![values.keeping()]
    } else {
        values.nightly(&format!("{hour:02}:{minute:02}")).into()
    };
    let directory = match args.system {
        true => PathBuf::from("/etc/systemd/system"),
        false => user_units()?,
    };
    if !args.write {
        let texts = units
            .iter()
            .map(|unit| format!("# {}\n{}", directory.join(&unit.name).display(), unit.text));
        print(texts.collect::<Vec<_>>().join("\n").trim_end());
        return Ok(0);
    }
    for unit in &units {
        let file = directory.join(&unit.name);
        write_unit(&file, &unit.text)?;
        print_message(&format!("written: {}", file.display()));
    }
    let started = units.last().map(|unit| unit.name.as_str()).unwrap_or_default();
    let systemctl = if args.system { "systemctl" } else { "systemctl --user" };
    print_message(&format!(
        "next:  {systemctl} daemon-reload && {systemctl} enable --now {started}"
    ));
    if !args.system {
        print_message("       loginctl enable-linger    # also while the user is not logged in");
    }
    Ok(0)
}

/// Returns the owner of the project's directory, as whom the services run.
fn project_user(directory: &Path) -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(directory)
        .map_err(|error| anyhow::anyhow!("could not read the owner of {}\n  cause: {error}", directory.display()))?
        .uid();
    let user = User::from_uid(Uid::from_raw(owner)).ok().flatten();
    // systemd also takes the number.
    Ok(user.map_or_else(|| owner.to_string(), |user| user.name))
}

fn user_units() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|home| Path::new(home).is_absolute())
        .map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let base =
        base.ok_or_else(|| CommandError::usage("HOME is not set, so the user's units have no place".to_owned()))?;
    Ok(base.join("systemd/user"))
}

/// Writes a unit; refuses to replace a file that this command has not written.
fn write_unit(file: &Path, text: &str) -> anyhow::Result<()> {
    let failed = |error: io::Error| anyhow::anyhow!("could not write {}\n  cause: {error}", file.display());
    match fs::read_to_string(file) {
        Ok(found) if !found.starts_with(MARK) => {
            return Err(CommandError::usage(format!(
                "{} exists, and `orch setup` has not written it\n  hint:  rename it, or compare it with the text that this \
                 command prints without `--write`",
                file.display()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    fs::write(file, text).map_err(failed)
}

fn cron(args: &CronArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let paths = ProjectPaths::of(&config)?;
    let (hour, minute) = args.at;
    let lines = crontab::lines(&paths.program, &paths.config, &paths.directory, hour, minute);
    if !args.write {
        print(lines.trim_end());
        return Ok(0);
    }
    let crontab = read_crontab()?;
    write_crontab(&crontab::with_lines(&crontab, &paths.config, &lines))?;
    print_message(&format!(
        "written: a nightly run at {hour:02}:{minute:02} is in the crontab (`crontab -l`)"
    ));
    Ok(0)
}

/// Reads the user's crontab; empty if the user has none.
fn read_crontab() -> anyhow::Result<String> {
    let output = Command::new("crontab")
        .arg("-l")
        .stdin(Stdio::null())
        .output()
        .map_err(no_crontab)?;
    if output.status.success() {
        return String::from_utf8(output.stdout)
            .map_err(|_| anyhow::anyhow!("could not read the crontab: it is not UTF-8"));
    }
    let error = String::from_utf8_lossy(&output.stderr);
    // All crontab programs say so for a user without a crontab, with exit code 1.
    if error.contains("no crontab for") {
        return Ok(String::new());
    }
    anyhow::bail!("could not read the crontab\n  cause: {}", error.trim())
}

/// Replaces the user's crontab. `crontab` reads the text from a private file.
fn write_crontab(text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::env::temp_dir().join(format!("orch-crontab-{}", std::process::id()));
    let failed = |error: io::Error| anyhow::anyhow!("could not write {}\n  cause: {error}", file.display());
    let mut open = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .map_err(failed)?;
    let replaced = open.write_all(text.as_bytes()).map_err(failed).and_then(|()| {
        let output = Command::new("crontab").arg(&file).stdin(Stdio::null()).output();
        output.map_err(no_crontab)
    });
    // The text has no secret; a file that stays does no harm.
    fs::remove_file(&file).ok();
    let output = replaced?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "could not write the crontab\n  cause: {}",
        error.trim()
    );
    Ok(())
}

fn no_crontab(error: io::Error) -> anyhow::Error {
    anyhow::anyhow!("could not start `crontab`\n  cause: {error}\n  hint:  install cron, or use `orch setup systemd`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_has_hours_and_minutes() {
        assert_eq!(time_of_day("02:30"), Ok((2, 30)));
        assert_eq!(time_of_day("0:05"), Ok((0, 5)));
        for wrong in ["", "2", "24:00", "02:60", "02:3x", "-1:00", "002:30", "+2:30"] {
            assert!(time_of_day(wrong).is_err(), "{wrong}");
        }
    }
}
