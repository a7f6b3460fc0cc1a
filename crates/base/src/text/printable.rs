//! Untrusted text (a name, a log, an error, an event) made safe for a terminal. All printed text passes through this
//! module.
//!
//! Colours are added around text that is already safe.

use serde::Serialize;

/// Replacement for a character that is not shown.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Decides whether a terminal would interpret the character as a command or show nothing.
fn is_unsafe(character: char) -> bool {
    match character {
        // C0, DEL and C1: escape sequences, carriage returns, bells.
        _ if character.is_control() => true,
        // Invisible characters and direction marks: two different names would look alike.
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2065}' | '\u{feff}' => true,
        // Line and paragraph separators; embeddings, overrides and isolates (Unicode, annex 9), with which a name could
        // reverse the rest of its line; the deprecated format characters after them; the annotation marks.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' => true,
        // Tags: invisible text within the text.
        '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// Decides whether the text has only printable ASCII and line breaks. This is the usual case and fast to check.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\n' || matches!(byte, b' '..=b'~'))
}

/// Replaces every character that a terminal interprets, except line breaks; a tab becomes a space.
pub fn text(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let safe = |character| match character {
        '\n' => '\n',
        '\t' => ' ',
        _ if is_unsafe(character) => REPLACEMENT,
        _ => character,
    };
    text.chars().map(safe).collect()
}

/// Makes the text safe and replaces line breaks by spaces.
pub fn one_line(text: &str) -> String {
    self::text(text).replace('\n', " ")
}

/// Shortens a text to at most `longest` characters; an ellipsis shows the cut.
pub fn shortened(text: &str, longest: usize) -> String {
    // No text has more characters than bytes.
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut characters = text.chars();
    let head: String = characters.by_ref().take(longest).collect();
    if characters.next().is_none() {
        return head;
    }
    let mut cut: String = head.chars().take(longest.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Makes the text safe and keeps all byte positions, for an error that points into the text: an unsafe character is
/// replaced by as many bytes. Unsafe ASCII characters stay; the code that draws the text replaces them.
pub fn in_place(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() || !is_unsafe(character) {
            safe.push(character);
            continue;
        }
        let mut width = character.len_utf8();
        if let Some(rest) = width.checked_sub(REPLACEMENT.len_utf8()) {
            safe.push(REPLACEMENT);
            width = rest;
        }
        safe.extend(std::iter::repeat_n('?', width));
    }
    safe
}

/// Formats a value as one line of JSON that is safe to print.
///
/// Returns an empty text for a value that cannot be JSON (a map with keys that are not texts); orch has no such data.
pub fn json(value: &impl Serialize) -> String {
    escaped(super::large_integer::to_string(value))
}

/// Escapes unsafe characters in JSON, so that a program reads the original text.
pub fn escaped(json: String) -> String {
    // Only strings contain unsafe characters: the rest of JSON is printable ASCII and line breaks.
    let must_be_escaped = |character: char| character != '\n' && is_unsafe(character);
    if is_plain(&json) || !json.contains(must_be_escaped) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if must_be_escaped(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unsafe_characters_are_replaced_and_others_stay() {
        assert_eq!(text("a\x1b[31mb\nc\td\r"), "a\u{fffd}[31mb\nc d\u{fffd}");
        assert_eq!(one_line("a\nb\u{9b}2J"), "a b\u{fffd}2J");
        assert_eq!(text("\u{202e}skoob\u{202c} имот"), "\u{fffd}skoob\u{fffd} имот");
        assert_eq!(text("a\u{200b}b\u{feff}\u{e0041}"), "a\u{fffd}b\u{fffd}\u{fffd}");
        for harmless in ["имот", "書店", "naïve e\u{301}", "❤\u{fe0f}", "😀"] {
            assert_eq!(text(harmless), harmless);
        }
    }

    #[test]
    fn an_ellipsis_shows_the_cut() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
    }

    #[test]
    fn escaped_json_keeps_its_meaning() {
        let name = "\x1b\x7f\u{9b}\u{202e}\u{e0041}имот\"";
        let written = json(&name);
        assert_eq!(written, r#""\u001b\u007f\u009b\u202e\udb40\udc41имот\"""#);
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), name);
    }

    /// Generates texts with more unsafe characters than random texts have.
    fn any_text() -> impl Strategy<Value = String> {
        let bad = prop::sample::select(vec![
            '\x1b',
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{202e}',
            '\u{e0041}',
            '\n',
            '\t',
        ]);
        prop::collection::vec(prop_oneof![any::<char>(), bad], 0..40).prop_map(|letters| letters.into_iter().collect())
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left_of_any_text(any in any_text()) {
            prop_assert!(!text(&any).replace('\n', "").contains(is_unsafe));
            prop_assert!(!one_line(&any).contains(is_unsafe));
            prop_assert_eq!(text(&any).chars().count(), any.chars().count());
            prop_assert!(!in_place(&any).contains(|letter: char| !letter.is_ascii() && is_unsafe(letter)));
            prop_assert_eq!(in_place(&any).len(), any.len());
            let written = json(&any);
            prop_assert!(!written.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), any);
        }
    }
}
