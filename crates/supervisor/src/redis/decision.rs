//! The decision about the Redis of a run: one that answers at the configured address, or one that orch starts there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::connection::{RedisConnection, SOCKET, client};
use super::probe;
use super::probe::{LOADING_TIMEOUT, MAX_POLL_INTERVAL, PING_TIMEOUT, RedisProbeResult};
use orch_base::net::free_port;
use orch_base::net::listener::listener;
use orch_base::text::duration_text::shown;
use orch_base::text::redaction;
use orch_base::text::secret::Secret;
use orch_celery::Error;
use orch_config::{RedisConfig, RedisMode, RedisUrls};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, Recorder, RedisProblem};

/// Interval between two looks at an external Redis that is down.
const UNAVAILABLE_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The result of the look at the configured address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisDecision {
    /// Redis is running: orch uses this Redis and never stops it.
    Reuse(RedisConnection),
    /// orch starts Redis at this address.
    Own(RedisConnection),
}

impl RedisDecision {
    /// Returns the current or future connection of Redis.
    pub fn connection(&self) -> &RedisConnection {
        match self {
            RedisDecision::Reuse(connection) | RedisDecision::Own(connection) => connection,
        }
    }
}

/// Looks at the configured address before anything is started; returns `None` for `mode = "off"`. Waits for an external
/// Redis that is down, up to the start timeout.
///
/// # Errors
/// The server at the address is not Redis, wants a password that is not configured, must not be reused (`own`), or is
/// missing (`external`).
pub async fn decide(
    config: &RedisConfig,
    state_dir: &Path,
    recorder: &Recorder,
) -> Result<Option<RedisDecision>, ServiceFailure> {
    if let (RedisMode::External, Some(urls)) = (config.mode, &config.urls) {
        return by_urls(config, urls, recorder).await.map(Some);
    }
    let there = RedisConnection {
        urls: None,
        host: config.host.clone(),
        port: config.port,
        username: config.username.clone(),
        password: config.password.clone(),
        own_password: None,
        broker_db: config.broker_db,
        result_db: config.result_db,
        owned: false,
        socket: None,
        requires_own_or_root: config.mode == RedisMode::Auto,
    };
    // An own Redis is about to be started; a server that already uses the address gets no password.
    let asked = match config.mode {
        RedisMode::Own => RedisConnection {
            username: None,
            password: None,
            ..there.clone()
        },
        _ => there.clone(),
    };
    let own = || -> Result<Option<RedisDecision>, ServiceFailure> {
        // A client connects to several addresses for `localhost`, and Redis listens on one of them.
        let host = match config.host.as_str() {
            "localhost" => "127.0.0.1",
            host => host,
        };
        let port = match config.port {
            0 => reserve_port(host)?,
            port => port,
        };
        let password = config.auth.then(random_password).transpose()?;
        let connection = RedisConnection {
            host: host.to_owned(),
            port,
            username: None,
            password,
            own_password: Some(random_password()?),
            owned: true,
            socket: Some(state_dir.join("redis/data").join(SOCKET)),
            requires_own_or_root: false,
            ..there.clone()
        };
        Ok(Some(RedisDecision::Own(connection)))
    };
    let address = there.address();
    let listener_note =
        || listener(&config.host, config.port).map_or_else(String::new, |listener| format!(" (it is {listener})"));
    match config.mode {
        RedisMode::Off => Ok(None),
        RedisMode::Auto | RedisMode::Own if config.port == 0 => own(),
        RedisMode::Auto | RedisMode::Own | RedisMode::External => {
            let deadline = Instant::now() + LOADING_TIMEOUT;
            let mut wait = RedisWait::new(config, recorder);
            loop {
                break match (probe::probe(&asked, PING_TIMEOUT).await, config.mode) {
                    (RedisProbeResult::Loading, RedisMode::Auto | RedisMode::External) if Instant::now() < deadline => {
                        tokio::time::sleep(MAX_POLL_INTERVAL).await;
                        continue;
                    }
                    (ref unavailable @ (RedisProbeResult::NotListening | RedisProbeResult::NoAnswer | RedisProbeResult::Unreachable(_)), RedisMode::External)
                        if wait.until_next_try(&format!("at {address}: {}", in_words(unavailable))).await =>
                    {
                        continue;
                    }
                    (RedisProbeResult::Redis | RedisProbeResult::Loading | RedisProbeResult::AccessDenied(_), RedisMode::Own) => {
                        Err(
                            ServiceFailure::configuration(format!("a Redis runs on {address} already{}", listener_note()))
                                .with_cause("`[redis] mode = \"own\"` refuses to reuse one")
                                .hint("choose another `port` (0: a free one), or `mode = \"auto\"` to use it"),
                        )
                    }
                    (RedisProbeResult::Redis, _) => Ok(Some(RedisDecision::Reuse(there))),
                    (RedisProbeResult::NotListening, RedisMode::Auto | RedisMode::Own) => own(),
                    (RedisProbeResult::NotListening, _) => Err(ServiceFailure::infrastructure(format!(
                        "no Redis answers on {address}{}",
                        wait.waited_suffix()
                    ))
                    .with_cause("the connection is refused")
                    .hint(
                        "start it, or let orch do so with `[redis] mode = \"auto\"`; `[redis] start_timeout` sets how long \
                         orch waits for it",
                    )),
                    (RedisProbeResult::Loading, _) => Err(ServiceFailure::infrastructure(format!(
                        "the Redis on {address} is still loading its data after {}",
                        shown(LOADING_TIMEOUT)
                    ))),
                    (RedisProbeResult::AccessDenied(words), _) if config.password.is_none() => Err(ServiceFailure::configuration(format!(
                        "the Redis on {address} wants a password and none is configured"
                    ))
                    .with_cause(words)
                    .hint("set `[redis] password`, or another `port`")),
                    (RedisProbeResult::AccessDenied(words), _) if words.starts_with("NOPERM") => Err(ServiceFailure::configuration(format!(
                        "the ACL of the Redis on {address} forbids what orch needs"
                    ))
                    .with_cause(words)
                    .hint("`orch redis acl` prints the line of a user that may do what orch and its worker need")),
                    (RedisProbeResult::AccessDenied(words), _) => Err(ServiceFailure::configuration(format!(
                        "the Redis on {address} refuses the configured credentials"
                    ))
                    .with_cause(words)
                    .hint("check `[redis] username` and `password`")),
                    (RedisProbeResult::NotRedis(words), _) => Err(ServiceFailure::infrastructure(format!(
                        "the server on {address} is not a Redis{}",
                        listener_note()
                    ))
                    .with_cause(format!("it answered PING with `{words}`"))
                    .hint("choose another `[redis] port` (0: a free one)")),
                    (RedisProbeResult::NoAnswer, _) => Err(ServiceFailure::infrastructure(format!(
                        "the server on {address} does not answer PING{}",
                        listener_note()
                    ))
                    .with_cause(format!(
                        "no answer within {}: not a Redis, or one that hangs",
                        shown(PING_TIMEOUT)
                    ))
                    .hint("choose another `[redis] port` (0: a free one)")),
                    (RedisProbeResult::OtherUser(owner), _) => Err(ServiceFailure::configuration(format!(
                        "the Redis on {address} belongs to another user: {owner}"
                    ))
                    .with_cause("the owner of the broker decides which tasks the workers execute, with the rights of this user")
                    .hint(
                        "`[redis] mode = \"own\"` with `port = 0` starts one of your own, `mode = \"external\"` trusts this one",
                    )),
                    (RedisProbeResult::Unreachable(error), _) => {
                        let what = format!("Redis on {address} cannot be reached{}", wait.waited_suffix());
                        Err(ServiceFailure::infrastructure(what).with_cause(error))
                    }
                };
            }
        }
    }
}

/// Looks at the addresses of an external Redis that are given as URLs.
async fn by_urls(config: &RedisConfig, urls: &RedisUrls, recorder: &Recorder) -> Result<RedisDecision, ServiceFailure> {
    let connection = RedisConnection::of_urls(urls);
    let client = client(&connection)?.with_deadline(PING_TIMEOUT);
    let loaded_by = Instant::now() + LOADING_TIMEOUT;
    let mut wait = RedisWait::new(config, recorder);
    loop {
        let error = match client.ping_servers().await {
            Ok(()) => return Ok(RedisDecision::Reuse(connection)),
            Err(error) => error,
        };
        if matches!(error, Error::Loading { .. }) && Instant::now() < loaded_by {
            tokio::time::sleep(MAX_POLL_INTERVAL).await;
            continue;
        }
        if error.is_transient() && wait.until_next_try(&error.to_string()).await {
            continue;
        }
        let failure = match &error {
            Error::CredentialsRefused { .. } => {
                ServiceFailure::configuration("the external Redis refuses the credentials of its URL")
                    .hint("check user and password in `[redis] url` and `result_url`")
            }
            Error::NotAllowed { .. } => {
                ServiceFailure::configuration("the ACL of the external Redis forbids what orch needs")
                    .hint("`orch redis acl` prints the line of a user that may do what orch and its worker need")
            }
            error if error.is_transient() => {
                let what = format!("the external Redis does not answer{}", wait.waited_suffix());
                ServiceFailure::infrastructure(what).hint(
                    "start it, or check `[redis] url` and `result_url`; `[redis] start_timeout` sets how long orch \
                     waits for it",
                )
            }
            _ => ServiceFailure::infrastructure("the external Redis cannot be used")
                .hint("check `[redis] url` and `result_url`"),
        };
        return Err(failure.with_cause(error.to_string()));
    }
}

/// The wait for an external Redis that is down.
struct RedisWait<'a> {
    recorder: &'a Recorder,
    timeout: Duration,
    began: Instant,
    is_reported: bool,
}

impl<'a> RedisWait<'a> {
    fn new(config: &RedisConfig, recorder: &'a Recorder) -> Self {
        Self {
            recorder,
            timeout: config.start_timeout,
            began: Instant::now(),
            is_reported: false,
        }
    }

    /// Waits for the time of the next try; returns `false` after the last one. Reports wait and reason once.
    async fn until_next_try(&mut self, why: &str) -> bool {
        if self.began.elapsed() >= self.timeout {
            return false;
        }
        if !self.is_reported {
            self.is_reported = true;
            let problem = RedisProblem::Unavailable {
                timeout_ms: EventKind::millis(self.timeout),
                reason: why.to_owned(),
            };
            self.recorder.emit(EventKind::RedisProblemFound { problem });
        }
        tokio::time::sleep(UNAVAILABLE_POLL_INTERVAL).await;
        true
    }

    /// Returns the end of an error message: the time of the wait; empty without a wait.
    fn waited_suffix(&self) -> String {
        match self.is_reported {
            true => format!(" within {}", shown(self.timeout)),
            false => String::new(),
        }
    }
}

fn in_words(unavailable: &RedisProbeResult) -> String {
    match unavailable {
        RedisProbeResult::NoAnswer => format!("no answer to PING within {}", shown(PING_TIMEOUT)),
        RedisProbeResult::Unreachable(error) => error.clone(),
        _ => "the connection is refused".to_owned(),
    }
}

fn reserve_port(host: &str) -> Result<u16, ServiceFailure> {
    free_port::reserve(host).map_err(|error| {
        ServiceFailure::infrastructure(format!("could not find a free port on {host} for Redis"))
            .with_cause(error.to_string())
    })
}

/// Returns 256 bits from the kernel as hexadecimal text, which needs no quoting anywhere.
fn random_password() -> Result<Secret, ServiceFailure> {
    let mut bytes = [0_u8; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut bytes))
        .map_err(|error| {
            ServiceFailure::infrastructure("could not read /dev/urandom for a password").with_cause(error.to_string())
        })?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    redaction::register_secret(&text);
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_and_differ() {
        let (one, other) = (random_password().unwrap(), random_password().unwrap());
        assert_eq!(one.expose().len(), 64);
        assert!(one != other);
    }
}
