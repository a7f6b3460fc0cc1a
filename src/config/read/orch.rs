//! `[orch]`: the instance.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::item::Item;
use crate::config::model::OrchConfig;
use crate::config::paths;
use crate::config::section::Section;
use crate::config::source::Span;

/// A sixth of it must do for the end of a site's work.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// What `[orch]` says, and the file of further sites with its place, to be read by `sites_file`.
pub(in crate::config) fn orch(root: &Section<'_>) -> (OrchConfig, Option<Span>, Option<(PathBuf, Span)>) {
    let section = root.section("orch");
    let sites_file = section.read("sites_file", |item| Some((item.path()?, item.span())));
    let env_file_at = section.place("env_file");
    let config = OrchConfig {
        instance: section.or("instance", "orch".to_owned(), |item| item.name()),
        state_dir: section.or("state_dir", paths::join(&root.reading.base, ".orch"), |item| {
            item.path()
        }),
        env_file: section.read("env_file", |item| item.path()),
        env_file_variables: Vec::new(),
        max_parallel_sites: section.or("max_parallel_sites", 8, |item| item.integer(1..=100_000)),
        memory_reserve: section.or("memory_reserve", 128 << 20, Item::size),
        lease: section.or("lease", Duration::from_secs(30), |item| {
            item.duration_from(SHORTEST_LEASE)
        }),
        strict: section.or("strict", false, Item::boolean),
    };
    section.finish();
    (config, env_file_at, sites_file)
}
