//! Makes text from others safe to show: names and values of objects, files and devices, and the output of other programs.
//!
//! This text may contain a newline that forges a line of a log or of a table, an escape sequence that a terminal obeys, or
//! characters that change the direction of a line. It may have any length.

use std::{borrow::Cow, fmt::Write as _};

/// Maximum length of a name as shown, in bytes. No name of the API is longer.
pub const NAME: usize = 300;
/// Maximum length of a sentence about an object, in bytes. An Event has room for 1024.
pub const SENTENCE: usize = 1000;
/// Maximum length of an error on a terminal, in bytes. The verifier's log ends with the reason.
pub const ERROR: usize = 8000;

/// Room for the mark that shows how much was left out.
const MARK: usize = 48;

/// Whether a character must not reach a terminal or a log: a control character, a line separator, a character that changes
/// the direction of text, or an invisible character.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// The text with unsafe characters escaped in Rust's notation, in at most `most` bytes. Text that is too long is cut in the
/// middle: the beginning names the subject, and the end names the result.
pub fn plain(text: &str, most: usize) -> Cow<'_, str> {
    let length: usize = text.chars().map(shown_length).sum();
    if length <= most {
        return if text.contains(is_unsafe) {
            Cow::Owned(escaped(text))
        } else {
            Cow::Borrowed(text)
        };
    }
    let room = most.saturating_sub(MARK);
    let head = prefix(text.chars(), room * 2 / 3);
    let tail = prefix(text[head..].chars().rev(), room / 3);
    let end = text.len() - tail;
    Cow::Owned(format!(
        "{} …({} bytes left out)… {}",
        escaped(&text[..head]),
        end - head,
        escaped(&text[end..])
    ))
}

/// Serialized JSON with unsafe characters in its strings escaped in JSON's notation. A parser reads the same value, and the
/// text is safe on a terminal.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    // JSON strings contain no raw newlines. All raw newlines are between tokens.
    let is_unsafe = |c: char| c != '\n' && is_unsafe(c);
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

/// The number of bytes at the text's beginning (or end) that fit into `most` bytes once they are escaped.
fn prefix(characters: impl Iterator<Item = char>, most: usize) -> usize {
    let (mut shown, mut taken) = (0, 0);
    for c in characters {
        shown += shown_length(c);
        if shown > most {
            break;
        }
        taken += c.len_utf8();
    }
    taken
}

fn shown_length(c: char) -> usize {
    match c {
        '\n' | '\r' | '\t' => 2,
        c if is_unsafe(c) => c.escape_unicode().len(),
        c => c.len_utf8(),
    }
}

fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
            c if is_unsafe(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_in_order_is_shown_as_it_is() {
        for text in [
            "",
            "default/web",
            "größe \\n \"x\"",
            "日本語",
            "👩‍🚀".trim_matches('\u{200d}'),
        ] {
            let joined = text.replace('\u{200d}', "");
            assert_eq!(plain(&joined, 100), joined);
            assert_eq!(plain_json(&joined), joined);
        }
    }

    #[test]
    fn what_terminals_and_logs_obey_is_escaped() {
        assert_eq!(plain("a\nb\r\tc", 100), "a\\nb\\r\\tc");
        assert_eq!(
            plain("\x1b[2J\u{9b}31m\x7f\0", 100),
            "\\u{1b}[2J\\u{9b}31m\\u{7f}\\u{0}"
        );
        assert_eq!(
            plain("\u{202e}gnp\u{2066}\u{2028}", 100),
            "\\u{202e}gnp\\u{2066}\\u{2028}"
        );
    }

    #[test]
    fn what_is_too_long_is_cut_in_the_middle_with_a_mark() {
        let text = format!("begin {} end", "x".repeat(250_000));
        let shown = plain(&text, 200);
        assert!(shown.len() <= 200, "{}", shown.len());
        assert!(shown.starts_with("begin xxx") && shown.ends_with("xxx end"));
        let kept = shown.matches('x').count();
        let mark = format!("…({} bytes left out)…", 250_000 - kept);
        assert!(shown.contains(&mark), "{shown}");
    }

    #[test]
    fn json_stays_the_same_to_a_parser() {
        let value = serde_json::json!({"a\u{9b}": "\u{202e}\u{e0041}\u{7f}\n\u{1b}ä"});
        let written = serde_json::to_string_pretty(&value).unwrap();
        let shown = plain_json(&written);
        assert!(!shown.contains(|c| c != '\n' && is_unsafe(c)), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    proptest! {
        #[test]
        fn any_text_is_short_and_safe(text in any::<String>(), times in 1usize..40, most in 60usize..300) {
            let text = text.repeat(times);
            let shown = plain(&text, most);
            prop_assert!(shown.len() <= most);
            prop_assert!(!shown.contains(is_unsafe));
            // Text that is already escaped is not escaped again.
            prop_assert_eq!(plain(&shown, most), shown.clone());
        }
    }
}
