//! What a site may do and still be well, and what is done when it is not: keys among the others of a site.

use std::time::Duration;

use crate::config::item::Item;
use crate::config::model::{DegradedAction, HealthConfig, LossAction};
use crate::config::section::Section;
use crate::config::tree::Value;
use crate::run::HealthAction;

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            max_error_rate: 0.5,
            stall_after: Some(Duration::from_secs(10 * 60)),
            slow_factor: Some(2.0),
            on_failing: HealthAction::Warn,
            on_stalled: HealthAction::Warn,
            on_slow: HealthAction::Warn,
        }
    }
}

/// The keys of a site's health.
pub(super) fn health(section: &Section<'_>) -> HealthConfig {
    let default = HealthConfig::default();
    let stall_after = section.or("stall_after", default.stall_after, |item| item.duration().map(Some));
    let slow_factor = section.or("slow_factor", default.slow_factor, |item| {
        item.number(0.0..=1000.0).map(Some)
    });
    HealthConfig {
        max_error_rate: section.or("max_error_rate", default.max_error_rate, share),
        stall_after: stall_after.filter(|after| !after.is_zero()),
        slow_factor: slow_factor.filter(|factor| *factor > 0.0),
        on_failing: section.or("on_failing", default.on_failing, action),
        on_stalled: section.or("on_stalled", default.on_stalled, action),
        on_slow: section.or("on_slow", default.on_slow, action),
    }
}

fn action(item: &Item<'_>) -> Option<HealthAction> {
    let action = item.choice(&[
        ("warn", HealthAction::Warn),
        ("cancel", HealthAction::Cancel),
        ("fail", HealthAction::Fail),
        ("refresh_proxies", HealthAction::RefreshProxies),
    ])?;
    if action == HealthAction::RefreshProxies {
        asks_for_proxies(item);
    }
    Some(action)
}

/// Reads `on_degraded`.
pub(super) fn on_degraded(item: &Item<'_>) -> Option<DegradedAction> {
    let action = item.choice(&[
        ("retry", DegradedAction::Retry),
        ("warn", DegradedAction::Warn),
        ("fail", DegradedAction::Fail),
        ("refresh_proxies", DegradedAction::RefreshProxies),
    ])?;
    if action == DegradedAction::RefreshProxies {
        asks_for_proxies(item);
    }
    Some(action)
}

/// Reads `on_lost`.
pub(super) fn on_lost(item: &Item<'_>) -> Option<LossAction> {
    item.choice(&[("retry", LossAction::Retry), ("finish", LossAction::Finish)])
}

/// Notes that there must be a chain that refreshes the proxies.
fn asks_for_proxies(item: &Item<'_>) {
    let mut first = item.reading.asks_for_proxies.borrow_mut();
    first.get_or_insert(item.span());
}

/// `0.3`, or as text `"30%"`.
fn share(item: &Item<'_>) -> Option<f64> {
    match &item.node.value {
        Value::Text(_) => item.percent().map(|hundredths| f64::from(hundredths) / 100.0),
        _ => item.number(0.0..=1.0),
    }
}
