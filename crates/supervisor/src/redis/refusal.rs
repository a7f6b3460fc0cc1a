//! Refusals by the Redis that orch started: they concern the app, or an unrelated program on the same machine.
//!
//! Redis counts refusals for all clients together, and does not record the clients: any health check that sends PING
//! without a password increases the count. So the count alone is no evidence against the app. A worker's log, a
//! worker's settings or the error of a failed task are evidence.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::worker::log::BrokerAddress;
use orch_base::files::log_stream;
use orch_base::text::printable::one_line;
use orch_celery::Client;
use orch_journal::failure::ServiceFailure;

/// Number of bytes of a log that are read at once; older ones are skipped.
const WINDOW: u64 = 8 * 1024 * 1024;
/// Number of characters after which a line is cut in a message.
const LINE: usize = 300;
/// Starts of the lines in which Celery reports why the broker is not available.
const OF_BROKER: [&str; 2] = ["Cannot connect to redis", "beat: Connection error"];
/// Exceptions of clients that Redis refuses.
const EXCEPTIONS: [&str; 2] = ["AuthenticationError", "OperationalError"];
/// Text between the name of an exception and Redis' message: in a traceback, and as Python's `repr`.
const JOINTS: [&str; 3] = [": ", "('", "(\""];

/// The reason why Redis refuses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefusalReason {
    NoPassword,
    WrongPassword,
}

impl RefusalReason {
    /// Each reason with the code in Redis' error counters, and with Redis' message.
    const ALL: [(Self, &'static str, &'static str); 2] = [
        (Self::NoPassword, "NOAUTH", "Authentication required"),
        (Self::WrongPassword, "WRONGPASS", "invalid username-password pair"),
    ];
}

/// Returns the refusal that a log line or an exception's text reports. The message alone is not enough: web sites,
/// proxies and mail servers use the same words.
fn reported(line: &str) -> Option<RefusalReason> {
    let found = RefusalReason::ALL.into_iter().find(|(_, code, words)| {
        let says = |before: &str| line.contains(&format!("{before}{words}"));
        let raised = |name: &str| {
            JOINTS.iter().any(|joint| {
                let text = format!("{name}{joint}{words}");
                line.match_indices(&text)
                    .any(|(at, _)| !line[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_'))
            })
        };
        let of_broker = |begin: &str| {
            line.split_once(begin)
                .is_some_and(|(_, rest)| rest.contains(&format!(": {words}")))
        };
        says(&format!("{code} ")) || EXCEPTIONS.into_iter().any(raised) || OF_BROKER.into_iter().any(of_broker)
    });
    found.map(|(refusal, ..)| refusal)
}

/// Number of refusals so far, as Redis counts them; zero if Redis cannot be asked now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalCounts {
    pub no_password: u64,
    wrong_password: u64,
}

impl RefusalCounts {
    fn of(self, refusal: RefusalReason) -> u64 {
        match refusal {
            RefusalReason::NoPassword => self.no_password,
            RefusalReason::WrongPassword => self.wrong_password,
        }
    }
}

/// Asks Redis for the number of refusals since the start.
pub async fn refusal_counts(client: &Client) -> RefusalCounts {
    let counts = client.errorstats().await.unwrap_or_default();
    let [no_password, wrong_password] =
        RefusalReason::ALL.map(|(_, code, _)| counts.get(code).copied().unwrap_or_default());
    RefusalCounts {
        no_password,
        wrong_password,
    }
}

/// Returns the failure if this text shows that Redis has refused the app; `source` names the origin of the text.
pub fn failure_in_text(refused: RefusalCounts, source: &str, text: &str) -> Option<ServiceFailure> {
    let line = text
        .lines()
        .find(|line| reported(line).is_some_and(|refusal| refused.of(refusal) > 0))?;
    let refusal = reported(line)?;
    let shown: String = line.trim().chars().take(LINE).collect();
    Some(failure(refusal, &format!("{source} says: {}", one_line(&shown))))
}

fn failure(refusal: RefusalReason, cause: &str) -> ServiceFailure {
    let what = match refusal {
        RefusalReason::NoPassword => "the app connects to the Redis that orch started without a password",
        RefusalReason::WrongPassword => "the app connects to the Redis that orch started with a wrong password",
    };
    ServiceFailure::configuration(what)
        .with_cause(cause)
        .hint("build the app's URL from CELERY_BROKER_URL or REDIS_PASSWORD, or set `[redis] auth = false`")
}

/// Returns the failure if a worker's settings store results in orch's Redis without a password. Otherwise the failure
/// would appear only with the first result, after a site has begun.
pub fn failure_in_settings(settings: &Map<String, Value>, here: &BrokerAddress) -> Option<ServiceFailure> {
    let of = |end: &str| {
        let end = end.to_owned();
        settings
            .iter()
            .find(move |(name, value)| name.to_lowercase().ends_with(&end) && value.is_string())
    };
    // Celery uses a password from another setting for a URL without one.
    if of("redis_password").is_some() {
        return None;
    }
    let (name, url) = of("result_backend")?;
    let url = url.as_str()?;
    let rest = url.strip_prefix("redis://")?;
    let has_credentials = rest.contains('@') || rest.contains("password=");
    let address = BrokerAddress::read(rest)?;
    if has_credentials || !(address.is_same_server(here)) {
        return None;
    }
    Some(failure(
        RefusalReason::NoPassword,
        &format!("its setting `{}` is {url}", name.to_lowercase()),
    ))
}

/// A log that is read during its growth.
#[derive(Clone, Debug)]
pub struct WatchedLog {
    path: PathBuf,
    /// Position in the stream of the log.
    offset: u64,
}

impl WatchedLog {
    /// Watches a log from this position on.
    pub fn new(path: PathBuf, offset: u64) -> Self {
        Self { path, offset }
    }

    /// Returns the path of the log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the complete lines that were added since the last call.
    fn added(&mut self) -> String {
        let read = log_stream::last_bytes(&self.path, self.offset, WINDOW);
        // A worker that was not started has no log.
        let Ok((start, mut bytes)) = read else {
            return String::new();
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        self.offset = start + whole as u64;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Returns the failure if the new lines of this log show that Redis has refused the app. Blocks to read.
pub fn failure_in_log(refused: RefusalCounts, log: &mut WatchedLog) -> Option<ServiceFailure> {
    if refused == RefusalCounts::default() {
        return None;
    }
    let text = log.added();
    let failure = failure_in_text(refused, &format!("`{}`", log.path().display()), &text)?;
    Some(failure.with_log(log.path()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use serde_json::json;

    use super::*;

    const BOTH: RefusalCounts = RefusalCounts {
        no_password: 1,
        wrong_password: 1,
    };

    #[test]
    fn refusals_by_redis_are_distinguished_from_similar_messages() {
        let (none, wrong) = (Some(RefusalReason::NoPassword), Some(RefusalReason::WrongPassword));
        for (line, expected) in [
            ("redis.exceptions.AuthenticationError: Authentication required.", none),
            (
                "raised unexpected: AuthenticationError('Authentication required.')",
                none,
            ),
            ("AuthenticationError(\"Authentication required.\")", none),
            ("kombu.exceptions.OperationalError: Authentication required.", none),
            ("ReplyError: NOAUTH Authentication required.", none),
            (
                "[ERROR/MainProcess] consumer: Cannot connect to redis://127.0.0.1:6390/0: Authentication required..",
                none,
            ),
            (
                "beat: Connection error: Authentication required.. Trying again in 2.0 seconds...",
                none,
            ),
            (
                "consumer: Cannot connect to redis://:**@127.0.0.1:6390/0: invalid username-password pair or user is disabled..",
                wrong,
            ),
            (
                "AuthenticationError: invalid username-password pair or user is disabled.",
                wrong,
            ),
            ("WRONGPASS invalid username-password pair or user is disabled.", wrong),
            (
                "smtplib.SMTPAuthenticationError: (530, b'5.7.0 Authentication required')",
                None,
            ),
            ("SMTPAuthenticationError: Authentication required", None),
            (
                "HTTPError: 407 Client Error: Proxy Authentication Required for url",
                None,
            ),
            ("HTTPError: 401 Client Error: Authentication required", None),
            ("Cannot connect to proxy: Authentication required", None),
            ("AuthenticationError: the shop wants another cookie", None),
            ("NOAUTH", None),
            ("", None),
        ] {
            assert_eq!(reported(line), expected, "{line}");
        }
    }

    #[test]
    fn a_message_counts_only_if_redis_has_counted_such_a_refusal() {
        let text = "one\n  redis.exceptions.AuthenticationError: Authentication required.\n";
        assert_eq!(failure_in_text(RefusalCounts::default(), "it", text), None);
        let only_wrong = RefusalCounts { no_password: 0, ..BOTH };
        assert_eq!(
            failure_in_text(only_wrong, "it", text),
            None,
            "another server has refused"
        );
        let failure = failure_in_text(BOTH, "`worker`", text).unwrap();
        assert!(failure.summary.contains("without a password"), "{failure}");
        assert!(
            failure.to_string().contains("`worker` says: redis.exceptions"),
            "{failure}"
        );
        assert_eq!(
            failure_in_text(BOTH, "it", "Task done\n"),
            None,
            "another client was refused"
        );
    }

    #[test]
    fn a_log_is_read_once_and_by_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("celery.log");
        let mut log = WatchedLog::new(path.clone(), 0);
        assert!(failure_in_log(BOTH, &mut log).is_none(), "there is no log yet");
        let mut file = fs::File::create(&path).unwrap();
        write!(file, "ready\nAuthenticationError: Authentication").unwrap();
        assert!(failure_in_log(BOTH, &mut log).is_none(), "the line is incomplete");
        writeln!(file, " required.").unwrap();
        assert!(
            failure_in_log(RefusalCounts::default(), &mut log).is_none(),
            "no client was refused"
        );
        assert!(failure_in_log(BOTH, &mut log).is_some());
        assert!(failure_in_log(BOTH, &mut log).is_none(), "the line was read before");
    }

    #[test]
    fn a_result_backend_without_a_password_is_found_in_the_settings() {
        let here = BrokerAddress {
            host: "127.0.0.1".into(),
            port: 6390,
            db: 0,
        };
        for (settings, expected) in [
            (json!({ "result_backend": "redis://127.0.0.1:6390/1" }), true),
            (json!({ "CELERY_RESULT_BACKEND": "redis://localhost:6390/1" }), true),
            (json!({ "result_backend": "redis://:********@127.0.0.1:6390/1" }), false),
            (
                json!({ "result_backend": "redis://127.0.0.1:6390/1?password=x" }),
                false,
            ),
            (
                json!({ "result_backend": "redis://127.0.0.1:6390/1", "redis_password": "********" }),
                false,
            ),
            (
                json!({ "result_backend": "redis://127.0.0.1:6390/1", "redis_password": null }),
                true,
            ),
            (json!({ "result_backend": "redis://127.0.0.1:6391/1" }), false),
            (json!({ "result_backend": "redis://10.0.0.9:6390/1" }), false),
            (json!({ "result_backend": "rediss://127.0.0.1:6390/1" }), false),
            (json!({ "result_backend": "db+sqlite:///results" }), false),
            (json!({ "result_backend": null }), false),
            (json!({}), false),
        ] {
            let settings = settings.as_object().unwrap();
            assert_eq!(failure_in_settings(settings, &here).is_some(), expected, "{settings:?}");
        }
    }
}
