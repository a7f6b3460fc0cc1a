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
    let config = ProxiesConfig {
        enabled,
        file: section.or("file", paths::join(&root.reading.base, "live_proxies.json"), Item::path),
        min_usable: section.or("min_usable", 10, |item| item.integer(0..=i64::MAX)),
        unusable_anonymity: section.or(
            "unusable_anonymity",
            vec!["Transparent".to_owned(), "1".to_owned()],
            |item| item.list(Item::scalar_text),
        ),
        allow_few: section.or("allow_few", false, Item::boolean),
        refresh: section.or("refresh", Vec::new(), refresh),
        keys: section.or("keys", "proxy_refresh:{job_id}:".to_owned(), keys),
        timeout: section.or("timeout", Duration::from_secs(40 * 60), Item::positive_duration),
        pace: task::pace(&section),
    };
    section.finish();
    config
}
