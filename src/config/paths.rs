//! Paths of the configuration made absolute, by their text alone (no link is followed, nothing is looked up).

use std::path::{Component, Path, PathBuf};

/// `path` seen from `base`, without `.` components; `..` stays, since what it means depends on links.
pub(super) fn join(base: &Path, path: impl AsRef<Path>) -> PathBuf {
    let joined = base.join(path);
    joined.components().filter(|part| *part != Component::CurDir).collect()
}

/// `path` as it is best shown: relative to `directory` where it lies below it.
pub(super) fn shown(path: &Path, directory: &Path) -> String {
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
