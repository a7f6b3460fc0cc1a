//! Recognises the address of a proxy as one text, as pools without objects hold it: `host:port` with or without a
//! scheme and a user.

/// Returns whether a text names a proxy: `10.0.0.1:3128`, `socks5://user:password@host:1080`, `[::1]:80`, or
/// `host:port:user:password`.
pub fn is_address(text: &str) -> bool {
    let text = text.trim();
    let rest = match text.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => rest.trim_end_matches('/'),
        Some(_) => return false,
        None => text,
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    if let Some(rest) = rest.strip_prefix('[') {
        let parts = rest.split_once("]:");
        return parts.is_some_and(|(host, port)| host.contains(':') && is_host(host) && is_port(port));
    }
    let mut parts = rest.split(':');
    let (Some(host), Some(port)) = (parts.next(), parts.next()) else {
        return false;
    };
    matches!(parts.count(), 0 | 2) && is_host(host) && is_port(port)
}

/// Returns whether a text is a port that a program can listen on.
pub fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_scheme(text: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.chars().all(is_part)
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || "/?#,;\"'".contains(letter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_distinguished_from_other_texts() {
        for text in [
            "10.0.0.1:3128",
            " proxy.example.com:80 ",
            "http://10.0.0.1:3128",
            "socks5h://user:p@ss@host:1080/",
            "user:password@host:1080",
            "host:1080:user:password",
            "[::1]:80",
            "http://[2001:db8::1]:8080",
        ] {
            assert!(is_address(text), "{text}");
        }
        for text in [
            "",
            ":",
            "host",
            "host:",
            ":80",
            "host:0",
            "host:65536",
            "host:x",
            "host:80:user",
            "two words:80",
            "::1",
            "[::1]",
            "[]:80",
            "not a scheme://host:80",
            "http://",
            "2026-11-28T10:00:00",
        ] {
            assert!(!is_address(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_port_of_every_plain_host_is_one(host in "[a-z0-9][a-z0-9.-]{0,20}", port in 1u16..) {
            let address = format!("{host}:{port}");
            prop_assert!(is_address(&address));
            for further in [format!("http://{address}"), format!("a:b@{address}"), format!("{address}:a:b")] {
                prop_assert!(is_address(&further), "{further}");
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            is_address(&text);
        }
    }
}
