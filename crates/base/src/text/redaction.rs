//! Removal of secrets from output: passwords within URLs of any origin, and secrets that this process knows.
//!
//! This is the second line of defence: orch's own texts never hold a secret ([`super::secret::Secret`]). But an app may
//! print its URL and exit, and orch then shows the end of the app's log or its exception. Data that a person requests
//! (`orch celery result`) and the services' own logs are not redacted.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use super::printable;

/// Replacement for a secret.
const REDACTED: &str = "**";
/// Length in bytes of the shortest secret that is searched for: a shorter one would be found within ordinary words.
const SHORTEST: usize = 8;

/// Secrets that this process knows. They belong to the process and not to a run, because the process also writes its
/// own log.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Registers a secret: [`redacted`] removes the secret from now on, in plain form, in URL form and in JSON form.
pub fn register_secret(secret: &str) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let in_url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let in_json = printable::json(&secret);
    for form in [secret, &in_url.replace('+', "%20"), in_json.trim_matches('"')] {
        if form.len() >= SHORTEST && !known.iter().any(|one| one == form) {
            known.push(form.to_owned());
        }
    }
}

/// Registers the passwords of URLs (`a;b`): [`redacted`] removes them from now on.
pub fn register_url_passwords(text: &str) {
    for place in url_passwords(text) {
        let password = &text[place];
        register_secret(password);
        // A plus sign stands for itself in the authority of a URL and for a space in the query.
        for encoded in [password.replace('+', "%2B"), password.to_owned()] {
            let pairs = format!("p={}", encoded.replace('&', "%26"));
            for (_, decoded) in url::form_urlencoded::parse(pairs.as_bytes()) {
                register_secret(&decoded);
            }
        }
    }
}

/// Replaces all secrets in a text.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(text);
    for place in url_passwords(text).into_iter().rev() {
        clean.to_mut().replace_range(place, REDACTED);
    }
    for secret in KNOWN.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if clean.contains(secret.as_str()) {
            clean = Cow::Owned(clean.replace(secret.as_str(), REDACTED));
        }
    }
    clean
}

/// Finds the passwords in the URLs of a text: `scheme://user:password@host`, `scheme://host/0?password=password`.
pub fn url_passwords(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("://").map(|place| at + place + 3) {
        let ends = |letter: char| letter.is_whitespace() || letter.is_control() || "/?#\"'`<>\\".contains(letter);
        let rest = &text[start..];
        let authority = &rest[..rest.find(ends).unwrap_or(rest.len())];
        // A password may contain an `@` that is not encoded: the host follows the last one.
        let mut end = start;
        if let Some((credentials, _)) = authority.rsplit_once('@')
            && let Some((user, password)) = credentials.split_once(':').filter(|(_, password)| !password.is_empty())
        {
            let begin = start + user.len() + 1;
            end = begin + password.len();
            found.push(begin..end);
        }
        at = end;
        // The rest of this URL, up to the next URL of the text.
        let rest = &text[end..];
        let rest = &rest[..rest.find("://").unwrap_or(rest.len())];
        let ends = |letter: char| letter.is_whitespace() || letter.is_control() || "#\"'`<>\\;".contains(letter);
        let rest = &rest[..rest.find(ends).unwrap_or(rest.len())];
        let mut parameter = rest.find('?');
        while let Some(mark) = parameter {
            let of_parameter = rest.get(mark + 1..).unwrap_or_default();
            let length = of_parameter.find('&').unwrap_or(of_parameter.len());
            if let Some(value) = of_parameter[..length]
                .strip_prefix("password=")
                .filter(|value| !value.is_empty())
            {
                let begin = end + mark + 1 + "password=".len();
                found.push(begin..begin + value.len());
                at = begin + value.len();
            }
            parameter = (length < of_parameter.len()).then_some(mark + 1 + length);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_in_urls_are_replaced_and_other_text_stays() {
        for (text, expected) in [
            ("redis://:pw@host:6379/0", "redis://:**@host:6379/0"),
            ("rediss://user:p:w@host", "rediss://user:**@host"),
            ("http://u:p@w@proxy:80/a@b", "http://u:**@proxy:80/a@b"),
            (
                "via http://u:pw@one:1, \"http://v:px@two:2\"",
                "via http://u:**@one:1, \"http://v:**@two:2\"",
            ),
            (
                "redis://user@host redis://host:1/x@y ://:@",
                "redis://user@host redis://host:1/x@y ://:@",
            ),
            ("a://b://c:pässword@d", "a://b://c:**@d"),
            ("mail me: a@b.c", "mail me: a@b.c"),
            ("redis://h:1/0?password=pw", "redis://h:1/0?password=**"),
            (
                "redis://u:pw@h?db=1&password=px&a=b;redis://i?password=py",
                "redis://u:**@h?db=1&password=**&a=b;redis://i?password=**",
            ),
            ("what is a password=x ?password=y", "what is a password=x ?password=y"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn a_known_secret_is_replaced_in_every_form() {
        register_secret("9f1c0a77b3");
        register_secret("sésame ouvre/toi");
        register_secret("short");
        register_secret("a\"quoted\"one");
        assert_eq!(redacted("password=9f1c0a77b3, short"), "password=**, short");
        assert_eq!(redacted(r#"{"text": "a\"quoted\"one"}"#), r#"{"text": "**"}"#);
        assert_eq!(redacted("s%C3%A9same%20ouvre%2Ftoi or sésame ouvre/toi"), "** or **");
    }

    #[test]
    fn passwords_of_a_url_are_replaced_plain_and_encoded() {
        register_url_passwords("redis://:geheim%2Fnis1@h/0;redis://i?password=und%20noch+eins");
        assert_eq!(redacted("geheim/nis1 geheim%2Fnis1"), "** **");
        assert_eq!(redacted("\"und noch eins\" \"und noch+eins\""), "\"**\" \"**\"");
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_password(text in "[a:/@ ü\"]{0,30}") {
            let clean = redacted(&text);
            prop_assert!(url_passwords(&clean).into_iter().all(|place| &clean[place] == REDACTED), "{}", clean);
        }
    }
}
