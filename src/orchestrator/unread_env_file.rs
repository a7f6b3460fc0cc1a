//! Search for a `.env` file that has a missing variable and is not read, because the configuration does not name the file.

use std::collections::BTreeSet;

use orch_base::files::regular;
use orch_config::Config;
use orch_journal::UnreadEnvFile;

const NAME: &str = ".env";
/// Size limit of such a file in bytes.
const LARGEST: u64 = 1 << 20;
/// Words, in lower case, of log lines about a missing variable: `KeyError: 'API_KEY'`, `Set the API_KEY environment
/// variable`.
const ABSENCE: [&str; 6] = ["error", "environment", "missing", "not set", "required", "not found"];

/// Returns the file, with the setting that would read it, if a line of `text` reports a missing variable that the file
/// has. Variables in the environment of the caller are not missing: a line with the name of one means another
/// problem.
pub fn find(config: &Config, caller: &[(String, String)], text: &str) -> Option<UnreadEnvFile> {
    if config.orch.env_file.is_some() {
        return None;
    }
    let directory = config.file.parent()?;
    [directory, &config.celery.directory].into_iter().find_map(|place| {
        let path = place.join(NAME);
        let written = regular::read(&path, LARGEST).ok()?;
        let written = String::from_utf8_lossy(&written);
        let names = names(&written);
        let variable = missed(text, &names, caller)?.to_owned();
        let setting = path.strip_prefix(directory).unwrap_or(&path).to_owned();
        Some(UnreadEnvFile {
            file: path,
            variable,
            setting,
        })
    })
}

/// Returns the names of the variables in the file; ignores all other text.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().trim_start_matches("export ").trim())
        // Names of one or two letters would be found in any text.
        .filter(|name| name.len() > 2)
        .collect()
}

fn missed<'t>(text: &'t str, names: &BTreeSet<&str>, caller: &[(String, String)]) -> Option<&'t str> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let reports_absence = |line: &&str| {
        let line = line.to_lowercase();
        ABSENCE.iter().any(|words| line.contains(words))
    };
    let mut words = text
        .lines()
        .filter(reports_absence)
        .flat_map(|line| line.split(move |letter| !is_of_name(letter)));
    words.find(|word| names.contains(word) && !caller.iter().any(|(name, _)| name == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_variable_of_a_line_is_found_in_the_file() {
        let file = "# shop\nexport SHOP_KEY = 'x'\nDEBUG=1\nHOME=/x\nno line\nA=1\n";
        let names = names(file);
        let caller = [("HOME".to_owned(), "/root".to_owned())];
        for (text, expected) in [
            ("Traceback\n  | KeyError: 'SHOP_KEY'", Some("SHOP_KEY")),
            (
                "ImproperlyConfigured: Set the SHOP_KEY environment variable",
                Some("SHOP_KEY"),
            ),
            ("DEBUG: it begins", None),
            ("KeyError: 'HOME'", None),
            ("KeyError: 'A'", None),
            ("KeyError: 'OTHER_KEY'", None),
            ("KeyError: 'SHOP_KEYS'", None),
        ] {
            assert_eq!(missed(text, &names, &caller), expected, "{text}");
        }
    }
}
