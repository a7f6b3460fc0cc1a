//! The name of the master that orch asks Sentinels for: that of the configuration, otherwise that of the app.
//!
//! kombu reads the name from the transport options, not from a URL. A setting on the worker's command line replaces all
//! options of the app, so orch passes the name there only if the app has no options.

use serde_json::json;

use crate::worker::app_settings::{OptionsForSentinels, SentinelSettings};
use orch_config::RedisUrls;
use orch_journal::failure::ServiceFailure;

/// The app's setting with the name, for the broker.
const OF_BROKER: &str = "broker_transport_options";
/// The app's setting with the name, for the results.
const OF_RESULTS: &str = "result_backend_transport_options";

/// Completes the addresses of Sentinels with the name of the master and with the settings that Celery needs. If the
/// app's settings are unknown, `app` contains the reason.
///
/// # Errors
/// No master is named, or orch and the app would use different ones.
pub fn with_master(urls: &RedisUrls, app: Result<SentinelSettings, String>) -> Result<RedisUrls, ServiceFailure> {
    let mut urls = urls.clone();
    let configured = urls.sentinel.master_name.clone();
    let (app, why) = match app {
        Ok(app) => (Some(app), None),
        Err(why) => (None, Some(why)),
    };
    let of_app = app.as_ref().map(|app| {
        let parts: [(&str, bool, &OptionsForSentinels); 2] = [
            (OF_BROKER, urls.broker_has_sentinels(), &app.broker),
            (OF_RESULTS, urls.results_have_sentinels(), &app.results),
        ];
        parts
            .into_iter()
            .filter(|(_, is_used, _)| *is_used)
            .map(|(setting, _, options)| (setting, options.clone()))
    });
    let of_app: Vec<_> = of_app.into_iter().flatten().collect();
    let named = of_app
        .iter()
        .find_map(|(setting, options)| Some((*setting, options.master_name.clone()?)));
    let master = match (&configured, &named) {
        (Some(name), _) => name.clone(),
        (None, Some((_, name))) => name.clone(),
        (None, None) => {
            let why = why.unwrap_or_else(|| format!("the app's `{OF_BROKER}` name no master either"));
            let what = "`[redis] url` names Sentinels, but `[redis] master_name` names no master";
            return Err(ServiceFailure::configuration(what)
                .with_cause(why)
                .hint("set `[redis] master_name` to the name under which the Sentinels watch the master"));
        }
    };
    for (setting, options) in of_app {
        match &options.master_name {
            Some(name) if *name == master => {}
            Some(name) => {
                let other = match &configured {
                    Some(_) => "`[redis] master_name`".to_owned(),
                    None => format!("its `{OF_BROKER}`"),
                };
                let what = format!("the app's `{setting}` name the master `{name}`, and {other} names `{master}`");
                return Err(ServiceFailure::configuration(what)
                    .with_cause("orch asks for one master, and its worker would use another")
                    .hint("name one master; without `[redis] master_name` the app's is used"));
            }
            None if options.has_others => {
                let what = format!("the app's `{setting}` have no `master_name`");
                return Err(ServiceFailure::configuration(what)
                    .with_cause("given on the worker's command line, it would replace the app's other options")
                    .hint(format!("add \"master_name\": \"{master}\" to `{setting}` of the app")));
            }
            None => {
                // Celery reads the part before the first point as the beginning of the setting's name.
                let setting = setting.replacen('_', ".", 1);
                urls.celery_settings
                    .push(format!("{setting}=(dict){}", json!({ "master_name": master })));
            }
        }
    }
    urls.sentinel.master_name = Some(master);
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_celery::SentinelOptions;

    fn urls(master: Option<&str>, results: Option<&str>) -> RedisUrls {
        let options = SentinelOptions {
            master_name: master.map(str::to_owned),
            ..SentinelOptions::default()
        };
        RedisUrls::read("sentinel://h:1/0;sentinel://i", results, options).unwrap()
    }

    fn options(master: Option<&str>, has_others: bool) -> OptionsForSentinels {
        OptionsForSentinels {
            master_name: master.map(str::to_owned),
            has_others,
        }
    }

    fn app(broker: OptionsForSentinels, results: OptionsForSentinels) -> Result<SentinelSettings, String> {
        Ok(SentinelSettings { broker, results })
    }

    #[test]
    fn the_name_is_the_configurations_else_the_apps() {
        let (none, main) = (options(None, false), options(Some("main"), true));
        for (configured, app, count) in [
            (Some("main"), app(main.clone(), main.clone()), 0),
            (None, app(main.clone(), main.clone()), 0),
            (Some("main"), app(none.clone(), none.clone()), 2),
            (None, app(main, none), 1),
            (Some("main"), Err("no Python".to_owned()), 0),
        ] {
            let urls = with_master(&urls(configured, None), app).unwrap();
            assert_eq!(urls.sentinel.master_name.as_deref(), Some("main"));
            assert_eq!(urls.celery_settings.len(), count, "{:?}", urls.celery_settings);
            if count == 2 {
                assert_eq!(
                    urls.celery_settings,
                    [
                        "broker.transport_options=(dict){\"master_name\":\"main\"}",
                        "result.backend_transport_options=(dict){\"master_name\":\"main\"}"
                    ]
                );
            }
        }
        // A result backend without Sentinels needs no name.
        let urls = with_master(
            &urls(Some("main"), Some("redis://h/1")),
            app(options(None, false), options(None, true)),
        )
        .unwrap();
        assert_eq!(urls.celery_settings.len(), 1);
    }

    #[test]
    fn contradictions_and_gaps_are_named() {
        let none = options(None, false);
        for (configured, app, words) in [
            (None, app(none.clone(), none.clone()), "no master"),
            (None, Err("no Python".to_owned()), "no Python"),
            (Some("main"), app(options(Some("other"), true), none.clone()), "`other`"),
            (
                Some("main"),
                app(options(None, true), none.clone()),
                "have no `master_name`",
            ),
            (None, app(options(Some("a"), true), options(Some("b"), true)), "`b`"),
        ] {
            let failure = with_master(&urls(configured, None), app).unwrap_err().to_string();
            assert!(failure.contains(words), "{failure}");
        }
    }
}
