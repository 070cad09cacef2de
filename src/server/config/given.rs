//! What was set, where, and what is wrong with it: the words between the layers and the table.
//!
//! A [`Problem`] ends the start, a [`Warning`] does not. Neither ever carries a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from, strongest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// A line of the settings file.
    File(PathBuf, usize),
    /// Nobody set it.
    Default,
}

impl Origin {
    /// How strongly it speaks: of two, the higher wins.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Flag(_) => 3,
            Self::Environment(_) => 2,
            Self::File(..) => 1,
            Self::Default => 0,
        }
    }

    /// The settings file's line, where it was one.
    pub(crate) fn file(path: &Path, line: usize) -> Self {
        Self::File(path.to_path_buf(), line)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// One text; a list kind splits it at its commas.
    One(String),
    /// A list from a TOML array or a repeated flag.
    Many(Vec<String>),
}

impl Raw {
    /// The one text.
    ///
    /// # Errors
    /// When it is a list.
    pub(crate) fn one(&self) -> Result<&str, String> {
        match self {
            Self::One(text) => Ok(text),
            Self::Many(texts) => match texts.as_slice() {
                [text] => Ok(text),
                _ => Err("is a list, one value is accepted".to_owned()),
            },
        }
    }

    /// The texts of a list; `none` alone is the empty list.
    pub(crate) fn many(&self) -> Vec<&str> {
        match self {
            Self::One(text) if text.trim() == NONE => Vec::new(),
            Self::One(text) => text.split(',').map(str::trim).collect(),
            Self::Many(texts) => texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect(),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(text) => f.write_str(text),
            Self::Many(texts) => f.write_str(&texts.join(",")),
        }
    }
}

/// One value from one layer.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// The value as written.
    pub(crate) raw: Raw,
    /// Where it was written.
    pub(crate) origin: Origin,
}

/// One reason why the settings are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The setting, or the file.
    pub(crate) key: String,
    /// Where it was set, where that is known.
    pub(crate) origin: Option<String>,
    /// What is wrong, with the value unless it is a secret, and what is accepted.
    pub(crate) message: String,
}

impl Problem {
    /// A problem with `key`, set at `origin`.
    pub(crate) fn new(key: impl Into<String>, origin: &Origin, message: impl Into<String>) -> Self {
        Self { key: key.into(), origin: Some(origin.to_string()), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Every reason why the settings are refused, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "a setting is not accepted: {problem}"),
            problems => {
                write!(f, "{} settings are not accepted:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

/// Something about the settings that an operator should read, and that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning(pub(crate) String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `; did you mean …?` when one of `known` is near to `text`, else nothing.
pub(crate) fn did_you_mean<'k>(text: &str, known: impl Iterator<Item = &'k str>) -> String {
    let most = (text.len() / 3).clamp(1, 3);
    let last_part = |key: &str| key.rsplit(['.', ' ']).next().unwrap_or_default().to_owned();
    let near = known
        .map(|key| if last_part(key) == text { (1, key) } else { (distance(text, key), key) })
        .filter(|(distance, _)| *distance <= most)
        .min();
    near.map(|(_, key)| format!("; did you mean {key}?")).unwrap_or_default()
}

/// How many letters to insert, drop, replace or swap with their neighbour to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The word for "no value" where one is optional.
pub(crate) const NONE: &str = "none";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = || ["memory", "listen", "limits.header_timeout"].into_iter();
        assert_eq!(did_you_mean("memry", known()), "; did you mean memory?");
        assert_eq!(did_you_mean("lsiten", known()), "; did you mean listen?");
        assert_eq!(did_you_mean("header_timeout", known()), "; did you mean limits.header_timeout?");
        assert_eq!(did_you_mean("completely_else", known()), "");
        assert_eq!(did_you_mean("", known()), "");
    }

    #[test]
    fn lists_come_from_commas_and_arrays_alike() {
        assert_eq!(Raw::One("a, b".into()).many(), ["a", "b"]);
        assert_eq!(Raw::Many(vec!["a".into(), "b,c".into()]).many(), ["a", "b", "c"]);
        assert!(Raw::One("none".into()).many().is_empty());
        assert!(Raw::Many(vec!["a".into(), "b".into()]).one().is_err());
    }
}
