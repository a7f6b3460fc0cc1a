//! Generators of names and texts for property tests.

use proptest::prelude::*;

use crate::ids::{ServiceName, SiteName};

pub(crate) fn text() -> BoxedStrategy<String> {
    prop_oneof![
        Just(String::new()),
        "[a-z]{1,8}",
        any::<String>(),
        Just("several\nlines\x1b[31m\u{202e}".to_owned())
    ]
    .boxed()
}

/// Generates names from a small set, so that several events concern the same service, and names that no configuration
/// accepts.
pub(crate) fn service() -> impl Strategy<Value = ServiceName> {
    prop_oneof!["redis|celery|beat|[a-f]", any::<String>()].prop_map(ServiceName::new)
}

pub(crate) fn site() -> impl Strategy<Value = SiteName> {
    prop_oneof!["books|imot.bg|[a-f]", any::<String>()].prop_map(SiteName::new)
}
