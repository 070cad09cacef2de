//! Patterns over keys: the globs of Redis, matched in at most pattern × key length steps.
//!
//! `*` any run of characters, also none; `?` one character; `[abc]`, `[a-z]` one of these, `[^a]` one that is not;
//! `\` takes the next character as it is. Everything else stands for itself. A pattern covers the whole key.
//! It knows keys only as text.

use crate::error::{Error, ErrorKind, Result};
use crate::key::{Parsed, owned_is_parsed};

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    tokens: Vec<Token>,
}

/// What one place of a pattern stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Token {
    /// Any run of characters; two in a row are one.
    Run,
    /// Any one character.
    One,
    /// This character.
    Char(char),
    /// One character within these ranges, or outside of all of them.
    Class { is_negated: bool, ranges: Vec<(char, char)> },
}

impl Pattern {
    /// Reads `text` as a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] for an empty or overlong one, a `[` without its `]`, a range that runs backwards, or a
    /// `\` at the end.
    ///
    /// ```
    /// let pattern = hifz::Pattern::parse("quran:surah:[1-3]*")?;
    /// assert!(pattern.matches("quran:surah:2:en") && !pattern.matches("quran:surah:4"));
    /// # Ok::<(), hifz::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(refused(
                text,
                format_args!("has {} bytes, accepted are 1 to {PATTERN_BYTES_MAX}", text.len()),
            ));
        }
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            let token = match char {
                '*' => Token::Run,
                '?' => Token::One,
                '[' => class(&mut rest).map_err(|why| refused(text, format_args!("{why}")))?,
                '\\' => {
                    Token::Char(rest.next().ok_or_else(|| refused(text, format_args!("ends with '\\'")))?)
                }
                other => Token::Char(other),
            };
            if token != Token::Run || tokens.last() != Some(&Token::Run) {
                tokens.push(token);
            }
        }
        Ok(Self { text: text.into(), tokens })
    }

    /// The text it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The pattern that covers `prefix` and everything that begins with it, taken literally.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] for an empty prefix, or one that is too long once its signs are escaped.
    pub fn prefix(prefix: &str) -> Result<Self> {
        if prefix.is_empty() {
            return Err(refused(prefix, format_args!("is an empty prefix, which would be everything")));
        }
        let mut text = String::with_capacity(prefix.len() + 1);
        for char in prefix.chars() {
            if matches!(char, '*' | '?' | '[' | '\\') {
                text.push('\\');
            }
            text.push(char);
        }
        text.push('*');
        Self::parse(&text)
    }

    /// Whether it covers the whole of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // Only the last run seen is ever gone back to: whatever an earlier one could give, it can give as well. So each
        // character is tried against each token at most once per place the last run can end.
        let (mut at, mut rest) = (0, text.chars());
        let mut resume: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            match self.tokens.get(at) {
                Some(Token::Run) => {
                    at += 1;
                    resume = Some((at, rest.clone()));
                    continue;
                }
                Some(token) => {
                    let mut ahead = rest.clone();
                    if ahead.next().is_some_and(|char| token.is(char)) {
                        (at, rest) = (at + 1, ahead);
                        continue;
                    }
                }
                None if rest.as_str().is_empty() => return true,
                None => {}
            }
            // The last run takes one character more, if there is one left for it.
            let Some((after_run, from)) = &mut resume else { return false };
            if from.next().is_none() {
                return false;
            }
            (at, rest) = (*after_run, from.clone());
        }
    }

    /// The namespace that it covers all of, if it is `namespace:*` and nothing else.
    #[must_use]
    pub fn whole_namespace(&self) -> Option<String> {
        let [name @ .., Token::Char(':'), Token::Run] = self.tokens.as_slice() else { return None };
        let char = |token: &Token| match token {
            Token::Char(char) if *char != ':' => Some(*char),
            _ => None,
        };
        name.iter().map(char).collect::<Option<String>>().filter(|name| !name.is_empty())
    }
}

impl Token {
    fn is(&self, char: char) -> bool {
        match self {
            Self::Run | Self::One => true,
            Self::Char(own) => *own == char,
            Self::Class { is_negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&char)) != *is_negated
            }
        }
    }
}

owned_is_parsed!(Pattern);

/// What stands between `[` and `]`.
fn class(rest: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const UNCLOSED: &str = "has a '[' without its ']'";
    let is_negated = rest.as_str().starts_with('^');
    if is_negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let first = match rest.next().ok_or(UNCLOSED)? {
            ']' if ranges.is_empty() => return Err("has an empty '[]'"),
            ']' => return Ok(Token::Class { is_negated, ranges }),
            '\\' => rest.next().ok_or(UNCLOSED)?,
            char => char,
        };
        let mut ahead = rest.clone();
        if ahead.next() != Some('-') || ahead.as_str().starts_with(']') {
            ranges.push((first, first));
            continue;
        }
        *rest = ahead;
        let last = match rest.next().ok_or(UNCLOSED)? {
            '\\' => rest.next().ok_or(UNCLOSED)?,
            char => char,
        };
        if last < first {
            return Err("has a range that runs backwards");
        }
        ranges.push((first, last));
    }
}

fn refused(text: &str, why: std::fmt::Arguments<'_>) -> Error {
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    Error::new(ErrorKind::KeyInvalid, format!("the pattern {shown:?} {why}"))
}

/// So much of a refused pattern is repeated to whoever sent it.
const SHOWN_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(text)
    }

    #[test]
    fn each_sign_means_what_redis_says() {
        for (pattern, text, does) in [
            ("*", "", true),
            ("a*", "a", true),
            ("*b", "aab", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("?", "é", true),
            ("?", "", false),
            ("??", "a", false),
            ("[abc]x", "bx", true),
            ("[abc]x", "dx", false),
            ("[^abc]", "d", true),
            ("[^abc]", "a", false),
            ("[^abc]", "", false),
            ("[a-c1-3]", "2", true),
            ("[a-c1-3]", "-", false),
            ("[a-]", "-", true),
            ("[\\]]", "]", true),
            ("[\\a-\\c]", "b", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("quran:surah:*", "quran:surah:2:en", true),
            ("quran:surah:*", "quran:surahs", false),
            ("a", "ab", false),
            ("ab", "a", false),
        ] {
            assert_eq!(matches(pattern, text), does, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "0 bytes"),
            ("[a", "without its"),
            ("[", "without its"),
            ("[]", "empty"),
            ("[z-a]", "backwards"),
            ("a\\", "ends with"),
            (&"x".repeat(PATTERN_BYTES_MAX + 1), "1025 bytes"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
    }

    #[test]
    fn a_prefix_is_taken_literally() {
        let prefix = Pattern::prefix("a*[").unwrap();
        assert_eq!(Pattern::parse(prefix.as_str()).unwrap(), prefix);
        assert!(Pattern::prefix("").is_err());
        assert!(prefix.matches("a*[b") && prefix.matches("a*[") && !prefix.matches("ab["));
    }

    #[test]
    fn a_pattern_that_is_a_whole_namespace_says_so() {
        let whole = |text: &str| Pattern::parse(text).unwrap().whole_namespace();
        assert_eq!(whole("quran:*").as_deref(), Some("quran"));
        for other in ["*", "quran:s*", "q?:*", ":*", "quran", "a:b:*"] {
            assert_eq!(whole(other), None, "{other}");
        }
    }

    #[test]
    fn the_steps_stay_within_pattern_times_key_length() {
        // Exponential matchers need longer than the universe has for this one.
        let pattern = Pattern::parse(&"*a".repeat(500)).unwrap();
        assert!(!pattern.matches(&("a".repeat(499) + &"b".repeat(500))));
        assert!(pattern.matches(&"a".repeat(1000)));
    }

    /// The definition, word for word and without regard to cost.
    fn naive(tokens: &[Token], text: &[char]) -> bool {
        match (tokens, text) {
            ([], []) => true,
            ([Token::Run, rest @ ..], _) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            ([token, rest @ ..], [char, after @ ..]) => token.is(*char) && naive(rest, after),
            _ => false,
        }
    }

    #[test]
    fn it_agrees_with_the_definition_on_every_short_pattern_and_text() {
        let texts: Vec<String> =
            (0..4_u32.pow(5)).map(|number| spelled(number, &['a', 'b', '*', '?'])).collect();
        for pattern in &texts {
            let Ok(parsed) = Pattern::parse(pattern) else { continue };
            for text in texts.iter().filter(|text| !text.contains(['*', '?'])) {
                let chars: Vec<char> = text.chars().collect();
                assert_eq!(parsed.matches(text), naive(&parsed.tokens, &chars), "{pattern:?} on {text:?}");
            }
        }
    }

    /// `number` in the digits `alphabet`, five of them, with the first standing for nothing where it leads.
    fn spelled(mut number: u32, alphabet: &[char; 4]) -> String {
        let mut text = String::new();
        while number > 0 {
            text.push(alphabet[(number % 4) as usize]);
            number /= 4;
        }
        text
    }
}
