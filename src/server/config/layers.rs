//! The layers: settings file, environment, flags. Each becomes (key, value, origin); the strongest wins.
//!
//! Nothing is checked here but names; every problem is collected, none ends the reading.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::given::{Given, Origin, Problem, Raw, Warning, did_you_mean};
use super::kind::{Kind, Row, SECRET_BYTES_MAX, Status};
use super::table::{self, NamespaceSettings, Values};
use super::value::HIDDEN;
use crate::key::Namespace;

/// Flags as they were typed: the key as in the table (`key_file` for a secret's file), and the values.
pub(crate) type Flags = Vec<(String, Vec<String>)>;

/// What the layers gave, and what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// The strongest value of each key.
    pub(crate) values: Values,
    /// Why the settings are refused.
    pub(crate) problems: Vec<Problem>,
    /// What should be read but stops nothing.
    pub(crate) warnings: Vec<Warning>,
    /// Files of secrets, by the secret's key: read once it is known which layer wins.
    secret_files: BTreeMap<String, Given>,
}

impl Layers {
    /// Takes the settings file `path`; a missing one is a problem only if somebody named it.
    pub(crate) fn take_file(&mut self, path: &Path, is_named: bool) {
        match read_limited(path, FILE_BYTES_MAX) {
            Ok(text) => self.take_file_text(path, &text),
            Err(error) if !is_named && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.problems.push(Problem {
                key: path.display().to_string(),
                origin: None,
                message: format!("the settings file cannot be read: {error}"),
            }),
        }
    }

    /// Takes the text of a settings file.
    pub(crate) fn take_file_text(&mut self, path: &Path, text: &str) {
        let (parsed, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // After a syntax error every further complaint may be its consequence.
            self.problems.extend(errors.iter().map(|error| {
                let line = line_of(text, error.span().map_or(0, |span| span.start));
                let message = format!("not TOML: {}", error.message().trim().replace('\n', "; "));
                Problem { key: format!("{}:{line}", path.display()), origin: None, message }
            }));
            return;
        }
        let file = Document { path, text };
        for (name, value) in parsed.get_ref() {
            let origin = file.origin(name.span().start);
            match (value.get_ref(), name.get_ref().as_ref()) {
                (DeValue::Table(tables), "namespaces") => self.take_namespaces(&file, tables),
                (DeValue::Table(table), name) => self.take_table(&file, name, table, &origin),
                (_, "namespaces") => {
                    let message = "is not a table: write [namespaces.NAME]";
                    self.problems.push(Problem::new("namespaces", &origin, message));
                }
                (value, name) => self.take_file_value(name, value, &origin),
            }
        }
    }

    fn take_table(&mut self, file: &Document<'_>, table: &str, entries: &DeTable<'_>, origin: &Origin) {
        if table::rows().any(|row| row.key == table) {
            self.problems.push(Problem::new(table, origin, "is a value, not a table"));
            return;
        }
        let is_known =
            table::rows().any(|row| row.key.split_once('.').is_some_and(|(known, _)| known == table));
        if !is_known {
            let known = table::rows().filter_map(|row| row.key.split_once('.')).map(|(known, _)| known);
            let near = did_you_mean(table, known.chain(["namespaces"]));
            self.problems.push(Problem::new(format!("[{table}]"), origin, format!("unknown table{near}")));
            return;
        }
        for (key, value) in entries {
            let origin = file.origin(key.span().start);
            self.take_file_value(&format!("{table}.{}", key.get_ref()), value.get_ref(), &origin);
        }
    }

    fn take_file_value(&mut self, key: &str, value: &DeValue<'_>, origin: &Origin) {
        match raw_of(value) {
            Ok(raw) => {
                if !self.take(key, Given { raw, origin: origin.clone() }) {
                    let near = did_you_mean(key, table::rows().map(|row| row.key));
                    self.problems.push(Problem::new(key, origin, format!("unknown setting{near}")));
                }
            }
            Err(what) => self.problems.push(Problem::new(key, origin, what)),
        }
    }

    fn take_namespaces(&mut self, file: &Document<'_>, tables: &DeTable<'_>) {
        for (name, table) in tables {
            let (origin, name) = (file.origin(name.span().start), name.get_ref().as_ref());
            let place = format!("namespaces.{name}");
            if let Err(error) = Namespace::parse(name) {
                self.problems.push(Problem::new(place.as_str(), &origin, error.message()));
            }
            let DeValue::Table(entries) = table.get_ref() else {
                let message = format!("is not a table: write [namespaces.NAME], here [{place}]");
                self.problems.push(Problem::new(place, &origin, message));
                continue;
            };
            for (key, value) in entries {
                let (origin, key) = (file.origin(key.span().start), key.get_ref().as_ref());
                let rows = NamespaceSettings::SECTION.rows;
                match raw_of(value.get_ref()) {
                    _ if !rows.iter().any(|row| row.key == key) => {
                        let near = did_you_mean(key, rows.iter().map(|row| row.key));
                        let message = format!("unknown setting of a namespace{near}");
                        self.problems.push(Problem::new(format!("{place}.{key}"), &origin, message));
                    }
                    Ok(raw) => {
                        let given = Given { raw, origin };
                        self.values
                            .namespaces
                            .entry(name.to_owned())
                            .or_default()
                            .insert(key.to_owned(), given);
                    }
                    Err(what) => self.problems.push(Problem::new(format!("{place}.{key}"), &origin, what)),
                }
            }
        }
    }

    /// Takes the environment; variables that are not ours are passed over, unknown `HIFZ_*` warned about.
    pub(crate) fn take_environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let keys: BTreeMap<String, String> = all_keys().map(|key| (table::variable_of(&key), key)).collect();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(table::VARIABLE_PREFIX)) else {
                continue;
            };
            let origin = Origin::Environment(name.to_owned());
            match (keys.get(name), value.into_string()) {
                (Some(key), Ok(text)) => {
                    self.take(key, Given { raw: Raw::One(text), origin });
                }
                (Some(key), Err(_)) => {
                    self.problems.push(Problem::new(key, &origin, "is not valid UTF-8"));
                }
                (None, _) if name == CONFIG_VARIABLE => {}
                (None, _) => {
                    let near = did_you_mean(name, keys.keys().map(String::as_str));
                    let text =
                        format!("the environment variable {name} names no setting and is ignored{near}");
                    self.warnings.push(Warning(text));
                }
            }
        }
    }

    /// Takes the flags.
    pub(crate) fn take_flags(&mut self, flags: &Flags) {
        for (key, texts) in flags {
            let origin = Origin::Flag(format!("--{}", table::flag_of(key)));
            if let Some(row) = table::rows().find(|row| row.key == key && row.has_file()) {
                let message = format!(
                    "a secret is never taken from a flag, because every user of the machine can read it there; \
                     set {}, or {} to a file that holds it, or {} in the settings file",
                    row.variable(),
                    table::variable_of(&row.file_key()),
                    row.key,
                );
                self.problems.push(Problem::new(row.key, &origin, message));
                continue;
            }
            let raw = match texts.as_slice() {
                [text] => Raw::One(text.clone()),
                _ => Raw::Many(texts.clone()),
            };
            if !self.take(key, Given { raw, origin: origin.clone() }) {
                self.problems.push(Problem::new(key, &origin, "unknown setting"));
            }
        }
    }

    /// Files `given` under `key` unless something stronger is there; false when no setting has that name.
    fn take(&mut self, key: &str, given: Given) -> bool {
        let place = if table::rows().any(|row| row.key == key) {
            self.values.given.entry(key.to_owned())
        } else if let Some(row) = table::rows().find(|row| row.has_file() && row.file_key() == key) {
            self.secret_files.entry(row.key.to_owned())
        } else {
            return false;
        };
        match place {
            std::collections::btree_map::Entry::Vacant(empty) => {
                empty.insert(given);
            }
            std::collections::btree_map::Entry::Occupied(mut held) => {
                if given.origin.rank() >= held.get().origin.rank() {
                    held.insert(given);
                }
            }
        }
        true
    }

    /// Reads the files of secrets where they win, then checks every value against its row.
    pub(crate) fn check(&mut self) {
        self.read_secret_files();
        for row in table::rows() {
            if let Some(given) = self.values.given.get(row.key) {
                check_one(row.key, row, given, &mut self.problems, &mut self.warnings);
            }
        }
        for (name, entries) in &self.values.namespaces {
            for row in NamespaceSettings::SECTION.rows {
                if let Some(given) = entries.get(row.key) {
                    let place = format!("namespaces.{name}.{}", row.key);
                    check_one(&place, row, given, &mut self.problems, &mut self.warnings);
                }
            }
        }
    }

    fn read_secret_files(&mut self) {
        for (key, file) in std::mem::take(&mut self.secret_files) {
            let direct = self.values.given.get(&key).map(|given| given.origin.rank());
            if direct == Some(file.origin.rank()) {
                let message =
                    format!("{key} and {key}_file are both set in the same place; one of them is accepted");
                self.problems.push(Problem::new(format!("{key}_file"), &file.origin, message));
                continue;
            }
            if direct.is_some_and(|rank| rank > file.origin.rank()) {
                continue;
            }
            match read_secret(&file.raw) {
                Ok(raw) => {
                    self.values.given.insert(key, Given { raw, origin: file.origin });
                }
                Err(why) => {
                    self.problems.push(Problem::new(format!("{key}_file"), &file.origin, why));
                }
            }
        }
    }
}

/// Where the settings file is: the flag, else `HIFZ_CONFIG`, else `./hifz.toml`; and whether somebody named it.
pub(crate) fn config_path(flag: Option<&Path>, variable: Option<OsString>) -> (PathBuf, bool) {
    match (flag, variable) {
        (Some(path), _) => (path.to_path_buf(), true),
        (None, Some(path)) => (PathBuf::from(path), true),
        (None, None) => (PathBuf::from("hifz.toml"), false),
    }
}

fn check_one(
    place: &str,
    row: &Row,
    given: &Given,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) {
    let shown = match (row.check)(&row.kind, &given.raw) {
        Ok(shown) => shown,
        Err(refusal) => {
            let value = if row.kind.is_hidden() { HIDDEN.to_owned() } else { shorten(&given.raw) };
            let message = format!("{value} {refusal}; accepted: {}", accepts(row));
            problems.push(Problem::new(place, &given.origin, message));
            return;
        }
    };
    let default = (row.check)(&row.kind, &Raw::One(row.default.to_owned()));
    // A hidden value that is set always differs from the default, which is none.
    if default.as_ref() == Ok(&shown) {
        return;
    }
    match row.status {
        Status::Now => {
            let is_short =
                matches!(row.kind, Kind::Secret) && given.raw.to_string().len() < SECRET_BYTES_SHORT;
            if is_short {
                let text =
                    format!("{place} has fewer than {SECRET_BYTES_SHORT} characters and could be guessed");
                warnings.push(Warning(text));
            }
        }
        Status::Later => {
            let text = format!("{place} ({}) has no effect in this version", given.origin);
            warnings.push(Warning(text));
        }
        Status::Refused => {
            let message = format!(
                "is not available in this version; remove it, or set it to its default, {}",
                row.default
            );
            problems.push(Problem::new(place, &given.origin, message));
        }
    }
}

fn accepts(row: &Row) -> String {
    let or_none = if row.default == "none" && !matches!(row.kind, Kind::Secret) { ", or none" } else { "" };
    format!("{}{or_none}", row.kind.accepts())
}

fn shorten(raw: &Raw) -> String {
    let text = raw.to_string();
    match text.char_indices().nth(VALUE_CHARS_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn read_secret(raw: &Raw) -> Result<Raw, String> {
    let path = raw.one()?;
    let text = read_limited(Path::new(path), SECRET_BYTES_MAX as u64 + 2)
        .map_err(|error| format!("the file {path:?} cannot be read: {error}"))?;
    // Editors and `echo` end a file with a newline that belongs to no secret.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err(format!("the file {path:?} is empty")) } else { Ok(Raw::One(text.to_owned())) }
}

fn read_limited(path: &Path, bytes_max: u64) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(std::io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(text)
}

/// A settings file while it is read.
struct Document<'t> {
    path: &'t Path,
    text: &'t str,
}

impl Document<'_> {
    fn origin(&self, offset: usize) -> Origin {
        Origin::file(self.path, line_of(self.text, offset))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn raw_of(value: &DeValue<'_>) -> Result<Raw, String> {
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .or_else(|_| Ok(number.as_str().to_owned())),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Ok(switch.to_string()),
        other => Err(format!("is a {}, a value is accepted", other.type_str())),
    };
    match value {
        DeValue::Array(values) => {
            values.iter().map(|value| scalar(value.get_ref())).collect::<Result<_, _>>().map(Raw::Many)
        }
        other => scalar(other).map(Raw::One),
    }
}

/// Every key that can be set outside `[namespaces]`, `KEY_file` included.
pub(crate) fn all_keys() -> impl Iterator<Item = String> {
    table::rows().flat_map(|row| {
        [Some(row.key.to_owned()), row.has_file().then(|| row.file_key())].into_iter().flatten()
    })
}

/// Names the settings file as `--config` does.
pub(crate) const CONFIG_VARIABLE: &str = "HIFZ_CONFIG";

/// The largest settings file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Of a refused value, this much is shown.
const VALUE_CHARS_SHOWN: usize = 80;

/// Secrets shorter than this get a warning.
const SECRET_BYTES_SHORT: usize = 16;
