//! `[proxies]`: the pool file and how it is refreshed.

use std::time::Duration;

use serde_json::Map;

use crate::config::item::Item;
use crate::config::model::ProxiesConfig;
use crate::config::paths;
use crate::config::section::Section;
use crate::config::templates::{self, Known};
use crate::config::tree::Value;

use super::task;

/// The oldest check of a proxy that counts, where the pool is refreshed.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

pub(in crate::config) fn proxies(root: &Section<'_>) -> ProxiesConfig {
    let section = root.section("proxies");
    let enabled = section.or("enabled", section.is_written(), Item::boolean);
    let refresh = |item: &Item<'_>| match &item.node.value {
        Value::List(_) => item.list(task::task),
        // A chain of one.
        _ => task::task(item).map(|call| vec![call]),
    };
    let keys = |item: &Item<'_>| {
        let known = Known {
            ours: &["job_id"],
            values: &Map::new(),
        };
        templates::check(item, &known);
        item.line()
    };
    let refresh = section.or("refresh", Vec::new(), refresh);
    // A pool that nothing refreshes may be a list that somebody keeps by hand.
    let max_age = if refresh.is_empty() { Duration::ZERO } else { MAX_AGE };
    let max_age = section.or("max_age", max_age, Item::duration);
    let config = ProxiesConfig {
        enabled,
        file: section.or("file", paths::join(&root.reading.base, "live_proxies.json"), Item::path),
        min_usable: section.or("min_usable", 10, |item| item.integer(0..=i64::MAX)),
        unusable_anonymity: section.or(
            "unusable_anonymity",
            vec!["Transparent".to_owned(), "1".to_owned()],
            |item| item.list(Item::scalar_text),
        ),
        max_age: Some(max_age).filter(|max_age| !max_age.is_zero()),
        allow_few: section.or("allow_few", false, Item::boolean),
        refresh,
        keys: section.or("keys", "proxy_refresh:{job_id}:".to_owned(), keys),
        timeout: section.or("timeout", Duration::from_secs(40 * 60), Item::positive_duration),
        pace: task::pace(&section),
    };
    section.finish();
    config
}
