//! A variable that a program misses and a `.env` file has, which nobody reads since the configuration does not name it.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::regular_file;

const NAME: &str = ".env";
/// Bytes of such a file.
const LARGEST: u64 = 1 << 20;
/// What lines say that tell of a variable which is not there, in lower case: `KeyError: 'API_KEY'`, `Set the API_KEY environment
/// variable`.
const ABSENCE: [&str; 6] = ["error", "environment", "missing", "not set", "required", "not found"];

/// Says which line of the configuration would name the file, if a line of `text` tells of a variable that it has. The caller's
/// variables are there: a line that names one means something else.
pub fn hint(config: &Config, caller: &[(String, String)], text: &str) -> Option<String> {
    if config.orch.env_file.is_some() {
        return None;
    }
    let directory = config.file.parent()?;
    [directory, &config.celery.directory].into_iter().find_map(|place| {
        let path = place.join(NAME);
        let written = regular_file::read(&path, LARGEST).ok()?;
        let written = String::from_utf8_lossy(&written);
        let names = names(&written);
        let missed = missed(text, &names, caller)?;
        let value = path.strip_prefix(directory).unwrap_or(&path);
        Some(format!(
            "{} has `{missed}`, and is not read: `[orch] env_file = \"{}\"` names it",
            path.display(),
            value.display()
        ))
    })
}

/// Names of variables in the file; what else stands there does not matter.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().trim_start_matches("export ").trim())
        // One of a letter or two would be found in any text.
        .filter(|name| name.len() > 2)
        .collect()
}

fn missed<'t>(text: &'t str, names: &BTreeSet<&str>, caller: &[(String, String)]) -> Option<&'t str> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let tells_of_absence = |line: &&str| {
        let line = line.to_lowercase();
        ABSENCE.iter().any(|words| line.contains(words))
    };
    let mut words = text
        .lines()
        .filter(tells_of_absence)
        .flat_map(|line| line.split(move |letter| !is_of_name(letter)));
    words.find(|word| names.contains(word) && !caller.iter().any(|(name, _)| name == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_the_file_has_and_a_line_misses() {
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
