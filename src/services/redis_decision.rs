//! Which Redis a run uses: one that answers at the configured address, or one that is started there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::connection::{RedisConnection, client};
use super::failure::Failure;
use super::listener::listener;
use super::redis::{LOADING_PATIENCE, LONGEST_PAUSE, PATIENCE, SOCKET};
use super::redis_probe::{self, Found};
use crate::celery::Error;
use crate::config::{RedisConfig, RedisMode, RedisUrls, Secret};
use crate::duration_text::shown;
use crate::free_port;
use crate::redaction;
use crate::run::{EventKind, Level, Recorder};

/// Between two looks at an external Redis that is away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// What the look at the configured address has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is there: use it, never stop it.
    Reuse(RedisConnection),
    /// Start one there.
    Own(RedisConnection),
}

impl Decision {
    /// Where Redis is, or will be.
    pub fn connection(&self) -> &RedisConnection {
        match self {
            Decision::Reuse(connection) | Decision::Own(connection) => connection,
        }
    }
}

/// Looks at the configured address before anything is started; `None` for `mode = "off"`. An external Redis that is away is
/// waited for within its start timeout.
///
/// # Errors
/// What stands there is not Redis, wants a password that is not configured, must not be reused (`own`) or is missing
/// (`external`).
pub async fn decide(config: &RedisConfig, state_dir: &Path, recorder: &Recorder) -> Result<Option<Decision>, Failure> {
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
        must_be_ours: config.mode == RedisMode::Auto,
    };
    // What stands in the way of an own Redis is none of ours: it is sent no password.
    let asked = match config.mode {
        RedisMode::Own => RedisConnection {
            username: None,
            password: None,
            ..there.clone()
        },
        _ => there.clone(),
    };
    let own = || -> Result<Option<Decision>, Failure> {
        // `localhost` is several addresses for whoever connects, and Redis listens on one of them.
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
            must_be_ours: false,
            ..there.clone()
        };
        Ok(Some(Decision::Own(connection)))
    };
    let address = there.address();
    let whose =
        || listener(&config.host, config.port).map_or_else(String::new, |listener| format!(" (it is {listener})"));
    match config.mode {
        RedisMode::Off => Ok(None),
        RedisMode::Auto | RedisMode::Own if config.port == 0 => own(),
        RedisMode::Auto | RedisMode::Own | RedisMode::External => {
            let deadline = Instant::now() + LOADING_PATIENCE;
            let mut wait = Wait::new(config, recorder);
            loop {
                break match (redis_probe::probe(&asked, PATIENCE).await, config.mode) {
                    (Found::Loading, RedisMode::Auto | RedisMode::External) if Instant::now() < deadline => {
                        tokio::time::sleep(LONGEST_PAUSE).await;
                        continue;
                    }
                    (ref away @ (Found::Nothing | Found::Silent | Found::Unreachable(_)), RedisMode::External)
                        if wait.goes_on(&format!("at {address}: {}", in_words(away))).await =>
                    {
                        continue;
                    }
                    (Found::Redis | Found::Loading | Found::Locked(_), RedisMode::Own) => {
                        Err(
                            Failure::configuration(format!("a Redis runs on {address} already{}", whose()))
                                .because("`[redis] mode = \"own\"` refuses to reuse one")
                                .hint("choose another `port` (0: a free one), or `mode = \"auto\"` to use it"),
                        )
                    }
                    (Found::Redis, _) => Ok(Some(Decision::Reuse(there))),
                    (Found::Nothing, RedisMode::Auto | RedisMode::Own) => own(),
                    (Found::Nothing, _) => Err(Failure::infrastructure(format!(
                        "no Redis answers on {address}{}",
                        wait.in_vain()
                    ))
                    .because("the connection is refused")
                    .hint(
                        "start it, or let orch do so with `[redis] mode = \"auto\"`; `[redis] start_timeout` sets how long \
                         it is waited for",
                    )),
                    (Found::Loading, _) => Err(Failure::infrastructure(format!(
                        "the Redis on {address} is still loading its data after {}",
                        shown(LOADING_PATIENCE)
                    ))),
                    (Found::Locked(words), _) if config.password.is_none() => Err(Failure::configuration(format!(
                        "the Redis on {address} wants a password and none is configured"
                    ))
                    .because(words)
                    .hint("set `[redis] password`, or another `port`")),
                    (Found::Locked(words), _) if words.starts_with("NOPERM") => Err(Failure::configuration(format!(
                        "the ACL of the Redis on {address} forbids what orch needs"
                    ))
                    .because(words)
                    .hint("`orch redis acl` prints the line of a user that may do what orch and its worker need")),
                    (Found::Locked(words), _) => Err(Failure::configuration(format!(
                        "the Redis on {address} refuses the configured credentials"
                    ))
                    .because(words)
                    .hint("check `[redis] username` and `password`")),
                    (Found::Foreign(words), _) => Err(Failure::infrastructure(format!(
                        "what listens on {address} is not a Redis{}",
                        whose()
                    ))
                    .because(format!("it answered PING with `{words}`"))
                    .hint("choose another `[redis] port` (0: a free one)")),
                    (Found::Silent, _) => Err(Failure::infrastructure(format!(
                        "what listens on {address} does not answer PING{}",
                        whose()
                    ))
                    .because(format!(
                        "nothing came within {}: not a Redis, or one that hangs",
                        shown(PATIENCE)
                    ))
                    .hint("choose another `[redis] port` (0: a free one)")),
                    (Found::Strangers(whose), _) => Err(Failure::configuration(format!(
                        "the Redis on {address} belongs to another user: {whose}"
                    ))
                    .because("who runs the broker decides what the workers execute, with the rights of this user")
                    .hint(
                        "`[redis] mode = \"own\"` with `port = 0` starts one of your own, `mode = \"external\"` trusts this one",
                    )),
                    (Found::Unreachable(error), _) => {
                        let what = format!("Redis on {address} cannot be reached{}", wait.in_vain());
                        Err(Failure::infrastructure(what).because(error))
                    }
                };
            }
        }
    }
}

/// Looks at the addresses of an external Redis that are given as URLs.
async fn by_urls(config: &RedisConfig, urls: &RedisUrls, recorder: &Recorder) -> Result<Decision, Failure> {
    let connection = RedisConnection::of_urls(urls);
    let client = client(&connection)?.with_deadline(PATIENCE);
    let loaded_by = Instant::now() + LOADING_PATIENCE;
    let mut wait = Wait::new(config, recorder);
    loop {
        let error = match client.ping_servers().await {
            Ok(()) => return Ok(Decision::Reuse(connection)),
            Err(error) => error,
        };
        if matches!(error, Error::Loading { .. }) && Instant::now() < loaded_by {
            tokio::time::sleep(LONGEST_PAUSE).await;
            continue;
        }
        if error.is_transient() && wait.goes_on(&error.to_string()).await {
            continue;
        }
        let failure = match &error {
            Error::Credentials { .. } => {
                Failure::configuration("the external Redis refuses the credentials of its URL")
                    .hint("check user and password in `[redis] url` and `result_url`")
            }
            Error::NotAllowed { .. } => Failure::configuration("the ACL of the external Redis forbids what orch needs")
                .hint("`orch redis acl` prints the line of a user that may do what orch and its worker need"),
            error if error.is_transient() => {
                let what = format!("the external Redis does not answer{}", wait.in_vain());
                Failure::infrastructure(what).hint(
                    "start it, or check `[redis] url` and `result_url`; `[redis] start_timeout` sets how long it is \
                     waited for",
                )
            }
            _ => Failure::infrastructure("the external Redis cannot be used")
                .hint("check `[redis] url` and `result_url`"),
        };
        return Err(failure.because(error.to_string()));
    }
}

/// How long an external Redis that is away is waited for.
struct Wait<'a> {
    recorder: &'a Recorder,
    patience: Duration,
    began: Instant,
    is_told: bool,
}

impl<'a> Wait<'a> {
    fn new(config: &RedisConfig, recorder: &'a Recorder) -> Self {
        Self {
            recorder,
            patience: config.start_timeout,
            began: Instant::now(),
            is_told: false,
        }
    }

    /// Waits for the time of the next look; `false`: it was the last one. The first time it is said for what.
    async fn goes_on(&mut self, why: &str) -> bool {
        if self.began.elapsed() >= self.patience {
            return false;
        }
        if !self.is_told {
            self.is_told = true;
            let message = format!(
                "the external Redis is not there yet and is waited for, {} at most: {why}",
                shown(self.patience)
            );
            let level = Level::Warning;
            self.recorder.emit(EventKind::Noticed { level, message });
        }
        tokio::time::sleep(AWAY_PAUSE).await;
        true
    }

    /// For the end of an error: nothing where it was not waited for.
    fn in_vain(&self) -> String {
        match self.is_told {
            true => format!(" within {}", shown(self.patience)),
            false => String::new(),
        }
    }
}

fn in_words(away: &Found) -> String {
    match away {
        Found::Silent => format!("no answer to PING within {}", shown(PATIENCE)),
        Found::Unreachable(error) => error.clone(),
        _ => "the connection is refused".to_owned(),
    }
}

fn reserve_port(host: &str) -> Result<u16, Failure> {
    free_port::reserve(host).map_err(|error| {
        Failure::infrastructure(format!("find a free port on {host} for Redis")).because(error.to_string())
    })
}

/// 256 bits from the kernel, as hexadecimal text: no character in it needs quoting anywhere.
fn random_password() -> Result<Secret, Failure> {
    let mut bytes = [0_u8; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut bytes))
        .map_err(|error| Failure::infrastructure("read /dev/urandom for a password").because(error.to_string()))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    redaction::hide(&text);
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
