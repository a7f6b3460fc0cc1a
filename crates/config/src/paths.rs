//! Absolute paths of the configuration, computed from their text alone (no link is followed, no file is accessed).

use std::path::{Component, Path, PathBuf};

/// Resolves `path` from `base` and removes `.` components; `..` stays, since the meaning depends on links.
pub(crate) fn join(base: &Path, path: impl AsRef<Path>) -> PathBuf {
    let joined = base.join(path);
    joined.components().filter(|part| *part != Component::CurDir).collect()
}

/// Shows a path relative to `directory` if possible, else in full.
pub(crate) fn shown(path: &Path, directory: &Path) -> String {
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_without_dots() {
        for (base, path, joined) in [
            ("/a", "b/./c", "/a/b/c"),
            ("/a", "./b", "/a/b"),
            ("/a", ".", "/a"),
            ("/a", "/b", "/b"),
            ("/a", "../b", "/a/../b"),
        ] {
            assert_eq!(join(Path::new(base), path), Path::new(joined));
        }
    }
}
