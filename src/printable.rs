//! Text from outside - a name, a log, an error, an event - made safe for a terminal. What is printed passes here.
//!
//! Not here: what is worth printing, and colours, which are put around text that is safe already.

use serde::Serialize;

/// Stands for a character that is not shown.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Whether a terminal would obey the character or show nothing for it, instead of showing it.
fn is_unsafe(character: char) -> bool {
    match character {
        // C0, DEL and C1: escape sequences, carriage returns, bells.
        _ if character.is_control() => true,
        // Invisible, by itself or as a sign of direction: two names that differ look alike.
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2065}' | '\u{feff}' => true,
        // Line and paragraph separators; embeddings, overrides and isolates (Unicode, annex 9): a name could make its
        // line read backwards. The deprecated format characters behind them, and the annotation marks.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' => true,
        // Tags: a text within the text that nobody sees.
        '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// Whether there is nothing but ASCII that is shown, and line breaks: nearly always, and seen at once.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\n' || matches!(byte, b' '..=b'~'))
}

/// The text with nothing in it that a terminal obeys but line breaks; a tab is a space.
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

/// The same as one line: line breaks are spaces.
pub fn one_line(text: &str) -> String {
    self::text(text).replace('\n', " ")
}

/// At most so many characters of a text, the cut shown.
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

/// The text with every place where it was, for an error that points into it: a character that is not shown is replaced
/// by as many bytes. ASCII is left to whoever draws it.
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

/// A value as one line of JSON that is safe to print.
///
/// Empty for what cannot be JSON (a key that is no text), which is plain data nowhere in orch.
pub fn json(value: &impl Serialize) -> String {
    escaped(crate::large_integer::to_string(value))
}

/// JSON in which what is not shown is written as an escape: a program reads what was meant.
pub fn escaped(json: String) -> String {
    // Only strings have any: the rest of JSON is ASCII that is shown, and its line breaks.
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
    fn what_a_terminal_obeys_is_replaced_and_all_else_stays() {
        assert_eq!(text("a\x1b[31mb\nc\td\r"), "a\u{fffd}[31mb\nc d\u{fffd}");
        assert_eq!(one_line("a\nb\u{9b}2J"), "a b\u{fffd}2J");
        assert_eq!(text("\u{202e}skoob\u{202c} имот"), "\u{fffd}skoob\u{fffd} имот");
        assert_eq!(text("a\u{200b}b\u{feff}\u{e0041}"), "a\u{fffd}b\u{fffd}\u{fffd}");
        for harmless in ["имот", "書店", "naïve e\u{301}", "❤\u{fe0f}", "😀"] {
            assert_eq!(text(harmless), harmless);
        }
    }

    #[test]
    fn a_cut_is_shown() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
    }

    #[test]
    fn json_says_the_same_in_what_can_be_shown() {
        let name = "\x1b\x7f\u{9b}\u{202e}\u{e0041}имот\"";
        let written = json(&name);
        assert_eq!(written, r#""\u001b\u007f\u009b\u202e\udb40\udc41имот\"""#);
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), name);
    }

    /// Any text, with more of the bad than chance gives.
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
