//! How each supervisor is told what to run, started and stopped; each in the configuration that serves it best.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Orch,
    Supervisord,
    Runit,
    S6,
}

/// What is supervised: a name and a command line without anything that a shell would read.
pub struct Service {
    pub name: String,
    pub words: Vec<String>,
}

impl Peer {
    pub const ALL: [Self; 4] = [Self::Orch, Self::Supervisord, Self::Runit, Self::S6];

    pub fn name(self) -> &'static str {
        match self {
            Self::Orch => "orch",
            Self::Supervisord => "supervisord",
            Self::Runit => "runit",
            Self::S6 => "s6",
        }
    }

    /// `None` when it is not installed.
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
                |told| String::from_utf8_lossy(&told.stdout).into_owned(),
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

    /// Writes its configuration for these services into an empty directory.
    pub fn configure(self, directory: &Path, services: &[Service]) {
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
                fs::write(directory.join("supervisord.conf"), text).unwrap();
            }
            Self::Runit | Self::S6 => {
                for service in services {
                    let home = directory.join("scan").join(&service.name);
                    fs::create_dir_all(&home).unwrap();
                    let run = home.join("run");
                    fs::write(&run, format!("#!/bin/sh\nexec {}\n", service.words.join(" "))).unwrap();
                    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "what is measured is started without orch")]
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

    /// Asks it to end and to take its services with it.
    pub fn ask_to_stop(self, supervisor: &Child) {
        let signal = match self {
            Self::Orch | Self::Supervisord | Self::S6 => Signal::SIGTERM,
            // On SIGTERM it would leave its services to themselves.
            Self::Runit => Signal::SIGHUP,
        };
        kill(Pid::from_raw(supervisor.id().cast_signed()), signal).unwrap();
    }
}
