//! `orch setup`: the texts that start orch without a person, and their installation.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use support::orch::Project;

const SITES: &str = r#"
[celery]
app = "app"

[sites.a]
dispatch = "app.dispatch"
"#;

fn setup(project: &Project, arguments: &[&str], environment: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.arg("setup").args(arguments).current_dir(project.path());
    command.envs(environment.iter().copied());
    command.output().expect("orch starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_units_of_a_night_are_printed_and_installed_for_the_user() {
    let project = Project::new(SITES);
    let home = project.file("home of the user");
    let variables = [("XDG_CONFIG_HOME", home.as_path())];
    let printed = setup(&project, &["systemd", "--at", "3:05"], &variables);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    for line in [
        "OnCalendar=*-*-* 03:05:00",
        "Persistent=true",
        "Type=oneshot",
        "SuccessExitStatus=143",
    ] {
        assert!(
            text(&printed.stdout).contains(line),
            "{line} is not in\n{}",
            text(&printed.stdout)
        );
    }
    assert!(!home.exists(), "nothing is written without --write");

    let written = setup(&project, &["systemd", "--write"], &variables);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    let units = home.join("systemd/user");
    let timer = units.join("orch-nightly.timer");
    assert!(
        text(&written.stderr).contains("systemctl --user enable --now orch-nightly.timer"),
        "{}",
        text(&written.stderr)
    );
    // Written again, it is replaced; a file of a person is not.
    assert_eq!(
        setup(&project, &["systemd", "--write", "--at", "4:00"], &variables)
            .status
            .code(),
        Some(0)
    );
    assert!(fs::read_to_string(&timer).expect("a file").contains("04:00:00"));
    fs::write(&timer, "[Timer]\n").expect("writable");
    let refused = setup(&project, &["systemd", "--write"], &variables);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("`orch setup` has not written it"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn systemd_accepts_the_units() {
    let project = Project::new(SITES);
    let home = project.file("home of the user");
    let variables = [("XDG_CONFIG_HOME", home.as_path())];
    let verify = |names: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--user"]);
        command.args(names.iter().map(|name| home.join("systemd/user").join(name)));
        command.output()
    };
    for (arguments, names) in [
        (
            &["systemd", "--write"][..],
            &["orch-nightly.service", "orch-nightly.timer"][..],
        ),
        (&["systemd", "--write", "--up"], &["orch.service"]),
    ] {
        let written = setup(&project, arguments, &variables);
        assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
        let Ok(output) = verify(names) else {
            return support::skip::skip("systemd-analyze is not installed");
        };
        let said = text(&output.stderr);
        // Only lines about our own units count: the machine may have other broken ones.
        let about_ours: Vec<&str> = said
            .lines()
            .filter(|line| names.iter().any(|name| line.contains(name)))
            .collect();
        assert!(about_ours.is_empty(), "{said}");
    }
}

/// Script with the interface of `crontab`: the crontab is a file next to the script.
const CRONTAB: &str = r#"#!/bin/sh
table="$(dirname "$0")/table"
if [ "$1" = -l ]; then
    [ -f "$table" ] || { echo "no crontab for $(id -un)" >&2; exit 1; }
    cat "$table"
else
    cat "$1" > "$table"
fi
"#;

#[test]
fn the_line_of_cron_takes_the_place_of_the_former_one() {
    let project = Project::new(SITES);
    let bin = project.file("bin");
    fs::create_dir(&bin).expect("a directory");
    let script = bin.join("crontab");
    fs::write(&script, CRONTAB).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our own file");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let variables = [("PATH", Path::new(&path))];
    fs::write(bin.join("table"), "MAILTO=ops\n").expect("writable");
    for at in ["2:30", "4:15"] {
        let written = setup(&project, &["cron", "--write", "--at", at], &variables);
        assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    }
    let table = fs::read_to_string(bin.join("table")).expect("a crontab");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "MAILTO=ops"), "{table}");
    assert!(lines[2].starts_with("15 4 * * * cd "), "{table}");
    let missing = setup(&project, &["cron", "--write"], &[("PATH", Path::new("/nonexistent"))]);
    assert!(
        text(&missing.stderr).contains("could not start `crontab`"),
        "{}",
        text(&missing.stderr)
    );
}

#[test]
fn a_wrong_time_of_day_is_a_usage_error() {
    let project = Project::new(SITES);
    let output = setup(&project, &["cron", "--at", "25:00"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("`25:00` is no time of day"),
        "{}",
        text(&output.stderr)
    );
}
