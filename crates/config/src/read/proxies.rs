//! `[proxies]`: the proxy pool and its refresh.

use std::time::Duration;

use serde_json::Map;

use super::item::ConfigItem;
use super::section::Section;
use crate::check::templates;
use crate::check::templates::KnownNames;
use crate::model::ProxiesConfig;
use crate::paths;
use crate::syntax::tree::SyntaxValue;

use super::task;

/// Largest age of a proxy's last check, if the pool is refreshed.
const PROXY_VALIDITY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn proxies(root: &Section<'_>) -> ProxiesConfig {
    let section = root.section("proxies");
    let enabled = section.read_or("enabled", section.is_written(), ConfigItem::boolean);
    let refresh = |item: &ConfigItem<'_>| match &item.node.value {
        SyntaxValue::List(_) => item.list(task::task),
        // A single task is a chain of one link.
        _ => task::task(item).map(|call| vec![call]),
    };
    let keys = |item: &ConfigItem<'_>| {
        let known = KnownNames {
            builtin: &["job_id"],
            values: &Map::new(),
        };
        templates::check(item, &known);
        item.line()
    };
    let refresh = section.read_or("refresh", Vec::new(), refresh);
    // A pool without a refresh may be a list that a person maintains.
    let max_age = if refresh.is_empty() {
        Duration::ZERO
    } else {
        PROXY_VALIDITY_TIMEOUT
    };
    let max_age = section.read_or("max_age", max_age, ConfigItem::duration);
    let config = ProxiesConfig {
        enabled,
        file: section.read_or(
            "file",
            paths::join(&root.reading.base, "live_proxies.json"),
            ConfigItem::path,
        ),
        min_usable: section.read_or("min_usable", 10, |item| item.integer(0..=i64::MAX)),
        unusable_anonymity: section.read_or(
            "unusable_anonymity",
            vec!["Transparent".to_owned(), "1".to_owned()],
            |item| item.list(ConfigItem::scalar_text),
        ),
        max_age: Some(max_age).filter(|max_age| !max_age.is_zero()),
        allow_few: section.read_or("allow_few", false, ConfigItem::boolean),
        refresh,
        keys: section.read_or("keys", "proxy_refresh:{job_id}:".to_owned(), keys),
        timeout: section.read_or("timeout", Duration::from_secs(40 * 60), ConfigItem::positive_duration),
        dynamic_timeout: task::pace(&section),
    };
    section.finish();
    config
}
