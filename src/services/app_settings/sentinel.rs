//! What the app's settings say of the Sentinels of its Redis.

use serde::Deserialize;
use serde_json::Value;

/// Transport options as far as Sentinels are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct OptionsForSentinels {
    pub master_name: Option<String>,
    /// There are options beside it.
    pub has_others: bool,
}

/// Those of the broker and of the results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SentinelSettings {
    /// `broker_transport_options`.
    pub broker: OptionsForSentinels,
    /// `result_backend_transport_options`.
    pub results: OptionsForSentinels,
}

impl SentinelSettings {
    /// Reads what the app's process says.
    pub fn read(settings: &Value) -> Self {
        let said = settings.get("sentinel").map(Self::deserialize);
        said.and_then(Result::ok).unwrap_or_default()
    }
}
