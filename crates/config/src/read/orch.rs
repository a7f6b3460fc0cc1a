//! Reads `[orch]`, the keys of the instance.

use std::path::PathBuf;
use std::time::Duration;

use super::item::ConfigItem;
use super::policy;
use super::section::Section;
use crate::model::{KeepConfig, OrchConfig};
use crate::paths;
use crate::syntax::source::SourceSpan;
use orch_base::files::log_bound::LogBound;

/// Shortest lease: a sixth of the lease must be enough to stop a site's work.
const MIN_LEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads `[orch]`; also returns the position of `env_file`, and the path and position of the sites file, which is read
/// later.
pub(crate) fn orch(root: &Section<'_>) -> (OrchConfig, Option<SourceSpan>, Option<(PathBuf, SourceSpan)>) {
    let section = root.section("orch");
    let sites_file = section.read("sites_file", |item| Some((item.path()?, item.span())));
    let env_file_at = section.place("env_file");
    let config = OrchConfig {
        instance: section.read_or("instance", "orch".to_owned(), |item| item.name()),
        state_dir: section.read_or("state_dir", paths::join(&root.reading.base, ".orch"), |item| {
            item.path()
        }),
        env_file: section.read("env_file", |item| item.path()),
        env_file_variables: Vec::new(),
        max_parallel_sites: section.read_or("max_parallel_sites", 8, |item| item.integer(1..=100_000)),
        memory_reserve: section.read_or("memory_reserve", 128 << 20, ConfigItem::size),
        lease: section.read_or("lease", Duration::from_secs(30), |item| {
            item.duration_from(MIN_LEASE_TIMEOUT)
        }),
        keep: keep(&section),
        log: policy::log(&section, LogBound::default()),
        strict: section.read_or("strict", false, ConfigItem::boolean),
    };
    section.finish();
    (config, env_file_at, sites_file)
}

/// Reads `keep = { runs, days, size }`.
fn keep(parent: &Section<'_>) -> KeepConfig {
    let section = parent.section("keep");
    let keep = KeepConfig {
        runs: section.read_or("runs", 20, |item| item.integer(1..=100_000)),
        days: section.read_or("days", 30, |item| item.integer(0..=36_500)),
        size: section.read_or("size", 2 << 30, ConfigItem::size),
    };
    section.finish();
    keep
}
