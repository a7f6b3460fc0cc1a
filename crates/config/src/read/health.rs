//! Keys of a site that set health limits and the actions when they are exceeded.

use std::time::Duration;

use super::item::ConfigItem;
use super::section::Section;
use crate::model::{DegradedAction, HealthConfig, LossAction};
use crate::syntax::tree::SyntaxValue;
use orch_base::names::HealthAction;

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

/// Reads the health keys of a site.
pub(crate) fn health(section: &Section<'_>) -> HealthConfig {
    let default = HealthConfig::default();
    let stall_after = section.read_or("stall_after", default.stall_after, |item| item.duration().map(Some));
    let slow_factor = section.read_or("slow_factor", default.slow_factor, |item| {
        item.number(0.0..=1000.0).map(Some)
    });
    HealthConfig {
        max_error_rate: section.read_or("max_error_rate", default.max_error_rate, share),
        stall_after: stall_after.filter(|after| !after.is_zero()),
        slow_factor: slow_factor.filter(|factor| *factor > 0.0),
        on_failing: section.read_or("on_failing", default.on_failing, action),
        on_stalled: section.read_or("on_stalled", default.on_stalled, action),
        on_slow: section.read_or("on_slow", default.on_slow, action),
    }
}

fn action(item: &ConfigItem<'_>) -> Option<HealthAction> {
    let action = item.choice(&[
        ("warn", HealthAction::Warn),
        ("cancel", HealthAction::Cancel),
        ("fail", HealthAction::Fail),
        ("refresh_proxies", HealthAction::RefreshProxies),
    ])?;
    if action == HealthAction::RefreshProxies {
        require_refresh(item);
    }
    Some(action)
}

/// Reads `on_degraded`.
pub(crate) fn on_degraded(item: &ConfigItem<'_>) -> Option<DegradedAction> {
    let action = item.choice(&[
        ("retry", DegradedAction::Retry),
        ("warn", DegradedAction::Warn),
        ("fail", DegradedAction::Fail),
        ("refresh_proxies", DegradedAction::RefreshProxies),
    ])?;
    if action == DegradedAction::RefreshProxies {
        require_refresh(item);
    }
    Some(action)
}

/// Reads `on_lost`.
pub(crate) fn on_lost(item: &ConfigItem<'_>) -> Option<LossAction> {
    item.choice(&[("retry", LossAction::Retry), ("finish", LossAction::Finish)])
}

/// Records that the configuration needs a chain that refreshes the proxies.
fn require_refresh(item: &ConfigItem<'_>) {
    let mut first = item.reading.refresh_required_at.borrow_mut();
    first.get_or_insert(item.span());
}

/// Reads a share: `0.3`, or as text `"30%"`.
fn share(item: &ConfigItem<'_>) -> Option<f64> {
    match &item.node.value {
        SyntaxValue::Text(_) => item.percent().map(|hundredths| f64::from(hundredths) / 100.0),
        _ => item.number(0.0..=1.0),
    }
}
