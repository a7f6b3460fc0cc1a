//! The app's settings for the Sentinels.

use serde::Deserialize;
use serde_json::Value;

/// The transport options that concern Sentinels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct OptionsForSentinels {
    pub master_name: Option<String>,
    /// There are other options as well.
    pub has_others: bool,
}

/// The options of the broker and of the results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SentinelSettings {
    /// `broker_transport_options`.
    pub broker: OptionsForSentinels,
    /// `result_backend_transport_options`.
    pub results: OptionsForSentinels,
}

impl SentinelSettings {
    /// Reads the options from the output of the app's process.
    pub fn read(settings: &Value) -> Self {
        let options = settings.get("sentinel").map(Self::deserialize);
        options.and_then(Result::ok).unwrap_or_default()
    }
}
