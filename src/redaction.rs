//! Secrets out of texts that are told: passwords within URLs, whoever wrote them, and those that this process knows.
//!
//! The second net: orch's own texts never hold a secret ([`crate::config::Secret`]). But an app may print the URL that it
//! was given and end, and the end of its log, or its exception, is told. Not here: what a person asks for as data
//! (`orch celery result`), and the services' own logs.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use crate::printable;

/// What stands for a secret.
const REDACTED: &str = "**";
/// A shorter one would be found in the middle of ordinary words. Bytes.
const SHORTEST: usize = 8;

/// The secrets that this process knows. Of the process and not of a run: its log is one too.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// From now on this is told nowhere, as it is, as it stands in a URL or in JSON.
pub fn hide(secret: &str) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let in_url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let in_json = printable::json(&secret);
    for form in [secret, &in_url.replace('+', "%20"), in_json.trim_matches('"')] {
        if form.len() >= SHORTEST && !known.iter().any(|one| one == form) {
            known.push(form.to_owned());
        }
    }
}

/// From now on the passwords of these URLs (`a;b`) are told nowhere.
pub fn hide_url(text: &str) {
    for place in url_passwords(text) {
        let password = &text[place];
        hide(password);
        // In the authority a plus sign is one, in the query it is a space.
        for encoded in [password.replace('+', "%2B"), password.to_owned()] {
            let pairs = format!("p={}", encoded.replace('&', "%26"));
            for (_, decoded) in url::form_urlencoded::parse(pairs.as_bytes()) {
                hide(&decoded);
            }
        }
    }
}

/// The text without secrets.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut told = Cow::Borrowed(text);
    for place in url_passwords(text).into_iter().rev() {
        told.to_mut().replace_range(place, REDACTED);
    }
    for secret in KNOWN.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if told.contains(secret.as_str()) {
            told = Cow::Owned(told.replace(secret.as_str(), REDACTED));
        }
    }
    told
}

/// Where passwords stand in the URLs of a text: `scheme://user:password@host`, `scheme://host/0?password=password`.
pub fn url_passwords(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("://").map(|place| at + place + 3) {
        let ends = |letter: char| letter.is_whitespace() || letter.is_control() || "/?#\"'`<>\\".contains(letter);
        let rest = &text[start..];
        let authority = &rest[..rest.find(ends).unwrap_or(rest.len())];
        // A password with an `@` that is not encoded: the host follows the last one.
        let mut end = start;
        if let Some((credentials, _)) = authority.rsplit_once('@')
            && let Some((user, password)) = credentials.split_once(':').filter(|(_, password)| !password.is_empty())
        {
            let begin = start + user.len() + 1;
            end = begin + password.len();
            found.push(begin..end);
        }
        at = end;
        // The rest of this URL, up to the next one of the text.
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
    fn passwords_in_urls_are_starred_and_all_else_stays() {
        for (text, told) in [
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
            assert_eq!(redacted(text), told);
        }
    }

    #[test]
    fn what_is_known_to_be_secret_is_told_in_no_form() {
        hide("9f1c0a77b3");
        hide("sésame ouvre/toi");
        hide("short");
        hide("a\"quoted\"one");
        assert_eq!(redacted("password=9f1c0a77b3, short"), "password=**, short");
        assert_eq!(redacted(r#"{"text": "a\"quoted\"one"}"#), r#"{"text": "**"}"#);
        assert_eq!(redacted("s%C3%A9same%20ouvre%2Ftoi or sésame ouvre/toi"), "** or **");
    }

    #[test]
    fn the_passwords_of_a_url_are_hidden_as_they_are_and_encoded() {
        hide_url("redis://:geheim%2Fnis1@h/0;redis://i?password=und%20noch+eins");
        assert_eq!(redacted("geheim/nis1 geheim%2Fnis1"), "** **");
        assert_eq!(redacted("\"und noch eins\" \"und noch+eins\""), "\"**\" \"**\"");
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "[a:/@ ü\"]{0,30}") {
            let told = redacted(&text);
            prop_assert!(url_passwords(&told).into_iter().all(|place| &told[place] == REDACTED), "{}", told);
        }
    }
}
