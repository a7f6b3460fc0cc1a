//! The authority of a URL: `user:password@host:port`.

use super::percent;

/// User of a password that is given without a user. redis-cli sends the empty name of `redis://:password@` as a user
/// name, and Redis refuses it.
pub const DEFAULT_USER: &str = "default";

/// Writes `user:password@`, encoded; empty without both.
pub fn credentials(user: Option<&str>, password: Option<&str>) -> String {
    match (user, password) {
        (user, Some(password)) => format!(
            "{}:{}@",
            percent::encoded(user.unwrap_or(DEFAULT_USER)),
            percent::encoded(password)
        ),
        (Some(user), None) => format!("{}@", percent::encoded(user)),
        (None, None) => String::new(),
    }
}

/// Writes `host:port`; an IPv6 address in brackets.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_form() {
        assert_eq!(credentials(None, None), "");
        assert_eq!(credentials(Some("u@"), None), "u%40@");
        assert_eq!(credentials(None, Some("p:w")), "default:p%3Aw@");
        assert_eq!(credentials(Some("u"), Some("p/")), "u:p%2F@");
        assert_eq!(host_and_port("h", 1), "h:1");
        assert_eq!(host_and_port("::1", 2), "[::1]:2");
    }
}
