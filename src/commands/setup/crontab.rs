//! Line of a crontab that starts a nightly run, and its place among the lines of other programs.

use std::path::Path;

use crate::commands::shell;

/// Makes the comment that marks the line of a project.
fn mark(config: &Path) -> String {
    format!(
        "# orch setup cron: {}",
        config.to_string_lossy().replace(['\n', '\r'], " ")
    )
}

/// Makes the lines: the mark, and the command at this time of day (`HH`, `MM`).
pub fn lines(program: &Path, config: &Path, directory: &Path, hour: u8, minute: u8) -> String {
    let command = format!(
        "cd {} && {} run -q --wait 10m --config {}",
        shell::quoted(directory),
        shell::quoted(program),
        shell::quoted(config)
    );
    // cron takes an unescaped percent sign for the end of the command (`crontab(5)`).
    let command = command.replace('%', "\\%");
    format!("{}\n{minute} {hour} * * * {command}\n", mark(config))
}

/// Returns the crontab with these lines in place of the project's former ones; other lines stay.
pub fn with_lines(crontab: &str, config: &Path, lines: &str) -> String {
    let mark = mark(config);
    let mut kept = String::new();
    let mut former = crontab.lines();
    while let Some(line) = former.next() {
        if line == mark {
            // The command follows its mark.
            former.next();
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept + lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_quoted_for_shell_and_cron() {
        let text = lines(
            Path::new("/usr/local/bin/orch"),
            Path::new("/srv/50% off/orch.toml"),
            Path::new("/srv/50% off"),
            2,
            30,
        );
        assert_eq!(
            text,
            "# orch setup cron: /srv/50% off/orch.toml\n30 2 * * * cd '/srv/50\\% off' && /usr/local/bin/orch run -q --wait 10m \
             --config '/srv/50\\% off/orch.toml'\n"
        );
    }

    #[test]
    fn only_the_former_line_of_the_project_is_replaced() {
        let config = Path::new("/srv/shop/orch.toml");
        let crontab = "MAILTO=ops\n# orch setup cron: /srv/shop/orch.toml\n1 1 * * * old\n5 5 * * * other\n";
        let changed = with_lines(crontab, config, "NEW\n");
        assert_eq!(changed, "MAILTO=ops\n5 5 * * * other\nNEW\n");
        assert_eq!(with_lines(&changed, Path::new("/x"), ""), changed);
        assert_eq!(with_lines("", config, "NEW\n"), "NEW\n");
    }
}
