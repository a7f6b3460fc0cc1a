//! Dependencies between the crates of the workspace, as their manifests declare them.

/// Largest number of dependencies between two crates of the workspace, without those of tests.
pub const MAX_EDGES: usize = 25;

/// Lists the crates of the workspace on which the crate of this manifest depends.
pub fn dependencies(manifest: &str) -> Vec<String> {
    let mut is_dependency = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            is_dependency =
                section == "dependencies" || (section.starts_with("target.") && section.ends_with(".dependencies"));
            found.extend(section.strip_prefix("dependencies.").and_then(of_workspace));
        } else if is_dependency {
            found.extend(of_workspace(line));
        }
    }
    found
}

fn of_workspace(text: &str) -> Option<String> {
    let name = text.split(['.', ' ', '=']).next().unwrap_or_default();
    name.starts_with("orch-").then(|| name.to_owned())
}
