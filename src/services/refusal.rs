//! Whom the Redis that orch started has refused: the app, or a stranger on the same machine.
//!
//! Redis counts refusals for all of its clients together, and does not note who they were: any health check that sends PING
//! without a password raises the count. So the count alone is no evidence against the app. What a worker's log, its settings
//! or a failed task says is.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::failure::Failure;
use super::worker_log::BrokerAddress;
use crate::celery::Client;
use crate::printable::one_line;
use crate::regular_file;

/// Bytes of a log that are read at once; older ones are left out.
const WINDOW: u64 = 8 * 1024 * 1024;
/// A longer line is cut in a message.
const LINE: usize = 300;
/// How Celery's lines begin that say of the broker why it is not there.
const OF_BROKER: [&str; 2] = ["Cannot connect to redis", "beat: Connection error"];
/// What clients raise when Redis refuses them.
const EXCEPTIONS: [&str; 2] = ["AuthenticationError", "OperationalError"];
/// How the words of Redis follow the name of an exception: in a traceback, and as Python's `repr`.
const JOINTS: [&str; 3] = [": ", "('", "(\""];

/// Why Redis refuses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NoPassword,
    WrongPassword,
}

impl Refusal {
    /// Its code in Redis' error counters, and Redis' words.
    const ALL: [(Self, &'static str, &'static str); 2] = [
        (Self::NoPassword, "NOAUTH", "Authentication required"),
        (Self::WrongPassword, "WRONGPASS", "invalid username-password pair"),
    ];
}

/// Reads what a line of a log, or an exception's text, reports of Redis' refusals. The words alone are not enough: web sites,
/// proxies and mail servers use them too.
fn reported(line: &str) -> Option<Refusal> {
    let found = Refusal::ALL.into_iter().find(|(_, code, words)| {
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

/// Refusals so far, by what Redis counts; none where it cannot be asked now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub no_password: u64,
    wrong_password: u64,
}

impl Refused {
    fn of(self, refusal: Refusal) -> u64 {
        match refusal {
            Refusal::NoPassword => self.no_password,
            Refusal::WrongPassword => self.wrong_password,
        }
    }
}

/// Asks Redis how often it has refused somebody since its start.
pub async fn refused(client: &Client) -> Refused {
    let counts = client.errorstats().await.unwrap_or_default();
    let [no_password, wrong_password] = Refusal::ALL.map(|(_, code, _)| counts.get(code).copied().unwrap_or_default());
    Refused {
        no_password,
        wrong_password,
    }
}

/// Gives the failure if this text shows that Redis has refused the app; `who` says it.
pub fn by_text(refused: Refused, who: &str, text: &str) -> Option<Failure> {
    let line = text
        .lines()
        .find(|line| reported(line).is_some_and(|refusal| refused.of(refusal) > 0))?;
    let refusal = reported(line)?;
    let shown: String = line.trim().chars().take(LINE).collect();
    Some(failure(refusal, &format!("{who} says: {}", one_line(&shown))))
}

fn failure(refusal: Refusal, cause: &str) -> Failure {
    let what = match refusal {
        Refusal::NoPassword => "the app connects to the Redis that orch started without a password",
        Refusal::WrongPassword => "the app connects to the Redis that orch started with a wrong password",
    };
    Failure::configuration(what)
        .because(cause)
        .hint("build the app's URL from CELERY_BROKER_URL or REDIS_PASSWORD, or set `[redis] auth = false`")
}

/// Gives the failure if by its own settings a worker stores results in orch's Redis without a password. It would be found at
/// the first result only, when a site has begun.
pub fn by_settings(settings: &Map<String, Value>, here: &BrokerAddress) -> Option<Failure> {
    let of = |end: &str| {
        let end = end.to_owned();
        settings
            .iter()
            .find(move |(name, value)| name.to_lowercase().ends_with(&end) && value.is_string())
    };
    // A password that stands elsewhere is used for a URL without one.
    if of("redis_password").is_some() {
        return None;
    }
    let (name, url) = of("result_backend")?;
    let url = url.as_str()?;
    let rest = url.strip_prefix("redis://")?;
    let has_credentials = rest.contains('@') || rest.contains("password=");
    let address = BrokerAddress::read(rest)?;
    if has_credentials || !(address.same_server(here)) {
        return None;
    }
    Some(failure(
        Refusal::NoPassword,
        &format!("its setting `{}` is {url}", name.to_lowercase()),
    ))
}

/// A log that is read as it grows.
#[derive(Clone, Debug)]
pub struct WatchedLog {
    path: PathBuf,
    offset: u64,
}

impl WatchedLog {
    /// A log from this byte on.
    pub fn new(path: PathBuf, offset: u64) -> Self {
        Self { path, offset }
    }

    /// The path of the log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole lines that were added since the last call.
    fn added(&mut self) -> String {
        let read = || -> std::io::Result<(u64, Vec<u8>)> {
            let mut file = regular_file::open(&self.path)?;
            let length = file.metadata()?.len();
            let start = self.offset.max(length.saturating_sub(WINDOW));
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(WINDOW).read_to_end(&mut bytes)?;
            Ok((start, bytes))
        };
        // A worker that was not started has none.
        let Ok((start, mut bytes)) = read() else {
            return String::new();
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        self.offset = start + whole as u64;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Gives the failure if what was added to this log shows that Redis has refused the app. Blocks to read.
pub fn by_log(refused: Refused, log: &mut WatchedLog) -> Option<Failure> {
    if refused == Refused::default() {
        return None;
    }
    let text = log.added();
    let failure = by_text(refused, &format!("`{}`", log.path().display()), &text)?;
    Some(failure.with_log(log.path()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use serde_json::json;

    use super::*;

    const BOTH: Refused = Refused {
        no_password: 1,
        wrong_password: 1,
    };

    #[test]
    fn what_reports_a_refusal_by_redis_is_told_from_what_uses_its_words() {
        let (none, wrong) = (Some(Refusal::NoPassword), Some(Refusal::WrongPassword));
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
    fn words_count_only_when_redis_has_refused_somebody_for_that() {
        let text = "one\n  redis.exceptions.AuthenticationError: Authentication required.\n";
        assert_eq!(by_text(Refused::default(), "it", text), None);
        let only_wrong = Refused { no_password: 0, ..BOTH };
        assert_eq!(by_text(only_wrong, "it", text), None, "that was another server");
        let failure = by_text(BOTH, "`worker`", text).unwrap();
        assert!(failure.what.contains("without a password"), "{failure}");
        assert!(
            failure.to_string().contains("`worker` says: redis.exceptions"),
            "{failure}"
        );
        assert_eq!(by_text(BOTH, "it", "Task done\n"), None, "a stranger was refused");
    }

    #[test]
    fn a_log_is_read_once_and_by_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("celery.log");
        let mut log = WatchedLog::new(path.clone(), 0);
        assert!(by_log(BOTH, &mut log).is_none(), "there is no log yet");
        let mut file = fs::File::create(&path).unwrap();
        write!(file, "ready\nAuthenticationError: Authentication").unwrap();
        assert!(by_log(BOTH, &mut log).is_none(), "half of a line");
        writeln!(file, " required.").unwrap();
        assert!(by_log(Refused::default(), &mut log).is_none(), "nobody was refused");
        assert!(by_log(BOTH, &mut log).is_some());
        assert!(by_log(BOTH, &mut log).is_none(), "read before");
    }

    #[test]
    fn a_result_backend_without_a_password_is_seen_in_the_settings() {
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
            assert_eq!(by_settings(settings, &here).is_some(), expected, "{settings:?}");
        }
    }
}
