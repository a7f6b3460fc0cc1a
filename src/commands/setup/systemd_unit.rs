//! Texts of systemd units that start orch.

use std::path::Path;

/// First line of each unit; a file with another first line belongs to a person.
pub const MARK: &str = "# Written by `orch setup systemd`; run it again after a change of the project.";

/// Values that the units have in common.
pub struct UnitValues<'a> {
    /// Absolute path of the program.
    pub program: &'a Path,
    /// Absolute path of the configuration.
    pub config: &'a Path,
    /// Directory of the project.
    pub directory: &'a Path,
    /// Name of the instance.
    pub instance: &'a str,
    /// User of the services, for a unit of the system; `None` for a unit of a user.
    pub user: Option<&'a str>,
}

/// File name and text of a unit.
#[derive(Debug, PartialEq, Eq)]
pub struct SystemdUnit {
    pub name: String,
    pub text: String,
}

impl UnitValues<'_> {
    /// Makes the unit that keeps the services running.
    pub fn keeping(&self) -> SystemdUnit {
        let install = match self.user {
            Some(_) => "multi-user.target",
            None => "default.target",
        };
        let text = format!(
            "{MARK}\n\
             [Unit]\n\
             Description=orch keeps the services of {instance} running\n\
             After=network-online.target\n\
             Wants=network-online.target\n\
             \n\
             [Service]\n\
             Type=notify\n\
             {common}\
             ExecStart={program} up --config {config}\n\
             # orch ends with 143 after SIGTERM: that is no failure.\n\
             SuccessExitStatus=143\n\
             # A wrong configuration (2) stays wrong, and another run that holds the instance (75) goes on.\n\
             Restart=on-failure\n\
             RestartPreventExitStatus=2 75\n\
             RestartSec=5\n\
             WatchdogSec=60\n\
             # The default, control-group, would send SIGTERM to every pool process: running tasks would fail.\n\
             KillMode=mixed\n\
             # orch asks for more time if its services may need it.\n\
             TimeoutStopSec=30\n\
             \n\
             [Install]\n\
             WantedBy={install}\n",
            instance = specifier_free(self.instance),
            common = self.common(),
            program = argument(self.program),
            config = argument(self.config),
        );
        SystemdUnit {
            name: format!("{}.service", self.stem("")),
            text,
        }
    }

    /// Makes the unit of one night, and the timer that starts the night at this time of day.
    pub fn nightly(&self, at: &str) -> [SystemdUnit; 2] {
        let service = format!(
            "{MARK}\n\
             [Unit]\n\
             Description=nightly scrape of {instance}\n\
             After=network-online.target\n\
             Wants=network-online.target\n\
             \n\
             [Service]\n\
             Type=oneshot\n\
             {common}\
             ExecStart={program} run -q --wait 10m --config {config}\n\
             # orch ends with 143 after SIGTERM: that is no failure.\n\
             SuccessExitStatus=143\n\
             # The default, control-group, would send SIGTERM to every pool process: running tasks would fail.\n\
             KillMode=mixed\n\
             TimeoutStopSec=90\n",
            instance = specifier_free(self.instance),
            common = self.common(),
            program = argument(self.program),
            config = argument(self.config),
        );
        let timer = format!(
            "{MARK}\n\
             [Unit]\n\
             Description=nightly scrape of {instance}\n\
             \n\
             [Timer]\n\
             OnCalendar=*-*-* {at}:00\n\
             # After a time without power the night is caught up.\n\
             Persistent=true\n\
             \n\
             [Install]\n\
             WantedBy=timers.target\n",
            instance = specifier_free(self.instance),
        );
        let stem = self.stem("-nightly");
        [
            SystemdUnit {
                name: format!("{stem}.service"),
                text: service,
            },
            SystemdUnit {
                name: format!("{stem}.timer"),
                text: timer,
            },
        ]
    }

    fn common(&self) -> String {
        let user = self
            .user
            .map_or_else(String::new, |user| format!("User={}\n", specifier_free(user)));
        // The whole rest of this line is the path.
        let directory = specifier_free(&self.directory.to_string_lossy());
        format!("{user}WorkingDirectory={directory}\n")
    }

    /// Returns the first part of the file names.
    fn stem(&self, suffix: &str) -> String {
        let safe = |character: char| {
            if character.is_ascii_alphanumeric() || "_.-".contains(character) {
                character
            } else {
                '_'
            }
        };
        match self.instance {
            "orch" => format!("orch{suffix}"),
            instance => format!("orch-{}{suffix}", instance.chars().map(safe).collect::<String>()),
        }
    }
}

/// Doubles the percent signs, which begin specifiers, and replaces line breaks.
fn specifier_free(text: &str) -> String {
    text.replace('%', "%%").replace(['\n', '\r'], " ")
}

/// Quotes a path as one word of `ExecStart=` (`systemd.service(5)`, "Command lines").
fn argument(path: &Path) -> String {
    let text = specifier_free(&path.to_string_lossy()).replace('$', "$$");
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@%$".contains(character);
    if text.chars().all(is_plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<'a>(directory: &'a Path, config: &'a Path) -> UnitValues<'a> {
        UnitValues {
            program: Path::new("/usr/local/bin/orch"),
            config,
            directory,
            instance: "shop",
            user: Some("shop"),
        }
    }

    #[test]
    fn paths_with_spaces_and_signs_stay_one_word() {
        for (path, word) in [
            ("/srv/shop/orch.toml", "/srv/shop/orch.toml"),
            ("/srv/my shop/orch.toml", "\"/srv/my shop/orch.toml\""),
            ("/srv/50%/$HOME", "/srv/50%%/$$HOME"),
            ("/srv/a\"b\\c", "\"/srv/a\\\"b\\\\c\""),
        ] {
            assert_eq!(argument(Path::new(path)), word);
        }
    }

    #[test]
    fn the_unit_that_keeps_services_running_takes_a_clean_stop_for_no_failure() {
        let unit = values(Path::new("/srv/my shop"), Path::new("/srv/my shop/orch.toml")).keeping();
        assert_eq!(unit.name, "orch-shop.service");
        for line in [
            "Type=notify",
            "User=shop",
            "WorkingDirectory=/srv/my shop",
            "ExecStart=/usr/local/bin/orch up --config \"/srv/my shop/orch.toml\"",
            "SuccessExitStatus=143",
            "KillMode=mixed",
        ] {
            assert!(
                unit.text.lines().any(|found| found == line),
                "{line} is not in\n{}",
                unit.text
            );
        }
    }

    #[test]
    fn a_night_that_was_missed_is_caught_up() {
        let [service, timer] = values(Path::new("/srv/shop"), Path::new("/srv/shop/orch.toml")).nightly("02:30");
        assert_eq!(
            (service.name.as_str(), timer.name.as_str()),
            ("orch-shop-nightly.service", "orch-shop-nightly.timer")
        );
        assert!(service.text.contains("Type=oneshot\n"), "{}", service.text);
        assert!(timer.text.contains("OnCalendar=*-*-* 02:30:00\n") && timer.text.contains("Persistent=true\n"));
    }
}
