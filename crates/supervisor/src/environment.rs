//! Environment variables of a service: `env_file` < caller < configuration < variables that orch must set.

use std::collections::BTreeMap;
use std::path::Path;

use orch_config::DEFAULT_PATH;

/// Merges the sources, later ones win; a variable with `None` in `must` is not set at all.
pub fn merge(
    base: &[(String, String)],
    configured: &BTreeMap<String, String>,
    must: &[(String, Option<String>)],
) -> Vec<(String, String)> {
    let mut merged: BTreeMap<String, String> = base.iter().cloned().collect();
    merged.extend(configured.iter().map(|(name, value)| (name.clone(), value.clone())));
    for (name, value) in must {
        match value {
            Some(value) => merged.insert(name.clone(), value.clone()),
            None => merged.remove(name),
        };
    }
    merged.into_iter().collect()
}

/// Puts the directory of orch's `celery` program first in PATH, unless PATH contains the directory already. The
/// directory may be in a virtual environment; the user's `python` and `celery` are then those of the worker.
pub fn prefer_programs_of(environment: &mut Vec<(String, String)>, celery: &Path) {
    let Some(directory) = celery.parent().filter(|directory| directory.is_absolute()) else {
        return;
    };
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, path)| path.as_str());
    if std::env::split_paths(path).any(|part| part == directory) {
        return;
    }
    let path = format!("{}:{path}", directory.display());
    set(environment, "PATH", path);
    let root = directory.parent().filter(|root| root.join("pyvenv.cfg").is_file());
    if let Some(root) = root {
        set(environment, "VIRTUAL_ENV", root.display().to_string());
    }
}

fn set(environment: &mut Vec<(String, String)>, name: &str, value: String) {
    environment.retain(|(known, _)| known != name);
    environment.push((name.to_owned(), value));
}

/// Merges `env_file` and the caller's variables, which win.
///
/// orch's own settings (`ORCH_*`) are not passed on: an `ORCH_RUN_ID` of an outer run would mark the processes of this
/// run as those of the outer one.
pub fn base_environment(env_file: &[(String, String)], caller: &[(String, String)]) -> Vec<(String, String)> {
    let mut merged: BTreeMap<String, String> = env_file.iter().cloned().collect();
    merged.extend(caller.iter().filter(|(name, _)| !name.starts_with("ORCH_")).cloned());
    merged.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn later_sources_win() {
        let base = base_environment(
            &pairs(&[
                ("A", "file"),
                ("B", "file"),
                ("C", "file"),
                ("D", "file"),
                ("E", "file"),
            ]),
            &pairs(&[
                ("B", "caller"),
                ("C", "caller"),
                ("D", "caller"),
                ("ORCH_RUN_ID", "outer"),
            ]),
        );
        let configured = BTreeMap::from([
            ("C".to_owned(), "config".to_owned()),
            ("D".to_owned(), "config".to_owned()),
        ]);
        let must = [("D".to_owned(), Some("orch".to_owned())), ("E".to_owned(), None)];
        let merged = merge(&base, &configured, &must);
        assert_eq!(
            merged,
            pairs(&[("A", "file"), ("B", "caller"), ("C", "config"), ("D", "orch")])
        );
    }
}
