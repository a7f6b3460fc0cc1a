//! Commands that are printed for a person to paste into a shell.

use std::borrow::Cow;
use std::path::Path;
use std::{env, fs};

/// Quotes a path as one word of a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    // Only a zero byte cannot be quoted; no path has one.
    shlex::try_quote(&text).map_or_else(|_| text.clone().into_owned(), Cow::into_owned)
}

/// Returns the command that starts this program: `orch` if PATH finds this program under that name, else its path.
pub fn program() -> String {
    let Ok(own) = env::current_exe().and_then(fs::canonicalize) else {
        return "orch".to_owned();
    };
    let name = Path::new("orch");
    let directories = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&directories)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    match found.and_then(|path| fs::canonicalize(path).ok()) {
        Some(found) if found == own => "orch".to_owned(),
        _ => quoted(&own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word() {
        for (path, word) in [
            ("/srv/shop", "/srv/shop"),
            ("/srv/my shop", "'/srv/my shop'"),
            ("/srv/it's", "\"/srv/it's\""),
            ("/srv/$HOME", "'/srv/$HOME'"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
            let command = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {word}")])
                .output();
            assert_eq!(String::from_utf8_lossy(&command.expect("a shell").stdout), path);
        }
    }
}
