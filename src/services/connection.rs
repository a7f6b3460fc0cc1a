//! The Redis that this run uses: where it is and how to be let in.

use super::failure::Failure;
use crate::celery::{Client, Endpoints};
use crate::config::Secret;

/// Address and credentials of the Redis in use, owned or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConnection {
    pub host: String,
    pub port: u16,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub broker_db: u32,
    pub result_db: u32,
    /// orch started it, or will: it gets the password, the restrictions and the clean-up.
    pub owned: bool,
}

impl RedisConnection {
    /// `host:port`, as errors name it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The URL of a database, credentials included: for a child's environment and the client, never for a log.
    pub fn url(&self, db: u32) -> Secret {
        let credentials = match (&self.username, &self.password) {
            (user, Some(password)) => {
                format!(
                    "{}:{}@",
                    percent_encode(user.as_deref().unwrap_or("")),
                    percent_encode(password.expose())
                )
            }
            (Some(user), None) => format!("{}@", percent_encode(user)),
            (None, None) => String::new(),
        };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        Secret::new(format!("redis://{credentials}{host}:{}/{db}", self.port))
    }

    /// What services are told: the variables that Celery and most Redis programs read. `None` must not be set: the
    /// credentials of another Redis, from the caller or a file, would be refused by this one.
    pub fn environment(&self) -> Vec<(String, Option<String>)> {
        let broker = self.url(self.broker_db).expose().to_owned();
        let backend = self.url(self.result_db).expose().to_owned();
        let password = self.password.as_ref().map(|password| password.expose().to_owned());
        [
            ("CELERY_BROKER_URL", Some(broker.clone())),
            ("CELERY_RESULT_BACKEND", Some(backend)),
            ("REDIS_URL", Some(broker)),
            ("REDIS_HOST", Some(self.host.clone())),
            ("REDIS_PORT", Some(self.port.to_string())),
            ("REDIS_PASSWORD", password),
            ("REDIS_USERNAME", self.username.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// A Celery client of this Redis; it connects when it is first used.
///
/// # Errors
/// The address cannot be put into a client.
pub fn client(connection: &RedisConnection) -> Result<Client, Failure> {
    let failed = |error: crate::celery::Error| {
        Failure::configuration(format!("use the Redis on {}", connection.address())).because(error.to_string())
    };
    let (broker, backend) = (
        connection.url(connection.broker_db),
        connection.url(connection.result_db),
    );
    let endpoints = Endpoints::from_urls(broker.expose(), backend.expose()).map_err(failed)?;
    Client::connect(endpoints).map_err(failed)
}

/// Everything but RFC 3986's unreserved characters is encoded: Celery decodes user and password of its URLs.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_carry_encoded_credentials_and_debug_does_not() {
        let connection = RedisConnection {
            host: "127.0.0.1".into(),
            port: 6379,
            username: None,
            password: Some(Secret::new("p@ss/1")),
            broker_db: 0,
            result_db: 1,
            owned: true,
        };
        assert_eq!(connection.url(1).expose(), "redis://:p%40ss%2F1@127.0.0.1:6379/1");
        assert!(!format!("{connection:?}").contains("p@ss"));
        let variables: std::collections::BTreeMap<_, _> = connection.environment().into_iter().collect();
        assert_eq!(variables["REDIS_PASSWORD"].as_deref(), Some("p@ss/1"));
        assert_eq!(variables["REDIS_USERNAME"], None);
    }
}
