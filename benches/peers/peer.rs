//! Configuration, start and stop of each supervisor. Each supervisor has the settings with its best results.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::probe;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisorKind {
    Orch,
    Supervisord,
    Runit,
    S6,
}

/// Supervised service: a name and a command line without characters that a shell interprets.
pub struct SupervisedService {
    pub name: String,
    pub words: Vec<String>,
}

impl SupervisorKind {
    pub const ALL: [Self; 4] = [Self::Orch, Self::Supervisord, Self::Runit, Self::S6];

    pub fn name(self) -> &'static str {
        match self {
            Self::Orch => "orch",
            Self::Supervisord => "supervisord",
            Self::Runit => "runit",
            Self::S6 => "s6",
        }
    }

    /// Returns the version; `None` if the supervisor is not installed.
    pub fn version(self) -> Option<String> {
        let package = match self {
            Self::Orch => return Some(env!("CARGO_PKG_VERSION").to_owned()),
            Self::Supervisord => "supervisor",
            Self::Runit => "runit",
            Self::S6 => "s6",
        };
        let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|path| path.join(self.program()).exists());
        let asked = Command::new("dpkg-query")
            .args(["-W", "-f", "${Version}", package])
            .output();
        found.then(|| {
            asked.map_or_else(
                |_| "?".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            )
        })
    }

    fn program(self) -> &'static str {
        match self {
            Self::Orch => env!("CARGO_BIN_EXE_orch"),
            Self::Supervisord => "supervisord",
            Self::Runit => "runsvdir",
            Self::S6 => "s6-svscan",
        }
    }

    /// Returns a text about the settings for the best results.
    pub fn set_up(self) -> &'static str {
        match self {
            Self::Orch => "`orch up -q`; restart limit 1000",
            Self::Supervisord => {
                "`supervisord -c FILE`; no log of its own, one group, startsecs 0, stop and kill as group"
            }
            Self::Runit => "`runsvdir scan`; a directory that was made a minute ago",
            Self::S6 => "`s6-svscan scan`; services that notify readiness",
        }
    }

    /// Writes the configuration for these services into an empty directory.
    pub fn configure(self, directory: &Path, services: &[SupervisedService]) {
        match self {
            Self::Orch => {
                let mut text = "[redis]\nmode = \"off\"\n".to_owned();
                for service in services {
                    text += &format!(
                        "[services.{}]\ncommand = {:?}\nrestart = {{ limit = 1000 }}\n",
                        service.name, service.words
                    );
                }
                fs::write(directory.join("orch.toml"), text).unwrap();
            }
            Self::Supervisord => {
                let mut text =
                    "[supervisord]\nnodaemon = true\nlogfile = /dev/null\nlogfile_maxbytes = 0\npidfile = pid\n"
                        .to_owned();
                for service in services {
                    text += &format!(
                        "[program:{}]\ncommand = {}\nautorestart = true\nstartsecs = 0\nstopasgroup = true\nkillasgroup = true\nstopwaitsecs = 3\n",
                        service.name,
                        service.words.join(" ")
                    );
                }
                let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
                text += &format!("[group:all]\nprograms = {}\n", names.join(","));
                fs::write(directory.join("supervisord.conf"), text).unwrap();
            }
            Self::Runit | Self::S6 => {
                for service in services {
                    let home = directory.join("scan").join(&service.name);
                    fs::create_dir_all(&home).unwrap();
                    let run = home.join("run");
                    let mut words = service.words.join(" ");
                    if self == Self::S6 && service.words.iter().any(|word| word == probe::ARGUMENT) {
                        fs::write(home.join("notification-fd"), "3\n").unwrap();
                        words += &format!(" {}", probe::NOTIFIES);
                    }
                    fs::write(&run, format!("#!/bin/sh\nexec {words}\n")).unwrap();
                    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
                }
                // Backdates the directory, because runsvdir waits for a while after a change of the directory.
                let scan = fs::File::open(directory.join("scan")).unwrap();
                scan.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the measured program is started without orch")]
    pub fn start(self, directory: &Path) -> Child {
        let mut command = Command::new(self.program());
        match self {
            Self::Orch => command.args(["up", "-q"]),
            Self::Supervisord => command.args(["-c", "supervisord.conf"]),
            Self::Runit | Self::S6 => command.arg("scan"),
        };
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Requests the stop of the supervisor together with its services.
    pub fn ask_to_stop(self, supervisor: &Child) {
        let signal = match self {
            Self::Orch | Self::Supervisord | Self::S6 => Signal::SIGTERM,
            // On SIGTERM runsvdir would end and leave its services running.
            Self::Runit => Signal::SIGHUP,
        };
        kill(Pid::from_raw(supervisor.id().cast_signed()), signal).unwrap();
    }
}
