//! The walls of the house: who may import whom.
//!
//! The table below is the one in the map of `src/lib.rs`, as data. Every file of `src` is read; an import that is not
//! in the table, a module without a row, or a foreign crate outside its rows fails with file and line. The table itself
//! must run downhill: no row may name a module of a later row.

#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

/// A module, what it may import of the crate, and which guarded crates it may use.
struct Row {
    module: &'static str,
    may_import: &'static [&'static str],
    crates: &'static [&'static str],
}

/// Downhill: every row imports only rows above it.
const TABLE: &[Row] = &[
    // Locks and atomics, which tests put under a schedule.
    Row { module: "sync", may_import: &[], crates: &[] },
    // A few unsafe lines that two tiers need.
    Row { module: "hint", may_import: &[], crates: &[] },
    // What both files need to be closed.
    Row { module: "fence", may_import: &[], crates: &["redb"] },
    Row { module: "error", may_import: &[], crates: &[] },
    Row { module: "clock", may_import: &["error"], crates: &[] },
    Row { module: "codec", may_import: &["error"], crates: &["bincode"] },
    Row { module: "key", may_import: &["error"], crates: &[] },
    // Patterns are taken as text wherever keys are.
    Row { module: "pattern", may_import: &["error", "key"], crates: &[] },
    Row { module: "datadir", may_import: &["error"], crates: &[] },
    // Derives its stored head for the codec.
    Row { module: "entry", may_import: &["clock", "codec", "error", "key", "sync"], crates: &["bincode"] },
    Row { module: "source", may_import: &["clock", "entry", "error", "key", "sync"], crates: &[] },
    Row {
        module: "memory",
        may_import: &["clock", "entry", "error", "hint", "key", "pattern", "sync"],
        crates: &[],
    },
    Row {
        module: "disk",
        may_import: &["clock", "codec", "datadir", "entry", "error", "fence", "hint", "key", "pattern"],
        crates: &["bincode", "redb"],
    },
    Row {
        module: "engine",
        // Typed values go through the codec.
        may_import: &[
            "clock", "codec", "datadir", "disk", "entry", "error", "key", "memory", "pattern", "source",
            "sync",
        ],
        crates: &[],
    },
    // A repository behind the engine; keeps typed values in the codec's form.
    Row {
        module: "cached",
        may_import: &["codec", "engine", "entry", "error", "key", "source"],
        crates: &[],
    },
    // Speaks HTTP's types and tower's two traits, and needs no server for it.
    Row {
        module: "layer",
        may_import: &["clock", "engine", "entry", "error", "key", "pattern", "source"],
        crates: &["http", "http_body", "tower_layer", "tower_service"],
    },
    Row {
        module: "content",
        may_import: &["clock", "codec", "datadir", "entry", "error", "fence", "key", "source"],
        crates: &["bincode", "redb"],
    },
    // An HTTP client, handed what the keys stand for by the server, so that it knows neither content nor engine.
    Row { module: "origin", may_import: &["clock", "error", "key", "source"], crates: &["hyper"] },
    Row {
        module: "server",
        may_import: &[
            "clock", "content", "datadir", "disk", "engine", "entry", "error", "key", "origin", "pattern",
            "source",
        ],
        crates: &["axum", "http", "hyper"],
    },
    // Doors for fuzz targets into whatever reads foreign bytes.
    Row {
        module: "fuzzing",
        may_import: &["clock", "content", "disk", "key", "pattern", "server"],
        crates: &[],
    },
    // Joins only.
    Row {
        module: "lib",
        may_import: &[
            "cached", "clock", "content", "datadir", "disk", "engine", "entry", "error", "fuzzing", "key",
            "layer", "memory", "pattern", "server", "source", "sync",
        ],
        crates: &[],
    },
    Row { module: "main", may_import: &["lib"], crates: &[] },
];

/// Crates that only the rows naming them may use.
const GUARDED: &[&str] =
    &["axum", "bincode", "http", "http_body", "hyper", "redb", "tower_layer", "tower_service"];

#[test]
fn every_import_is_in_the_table() {
    let mut broken = Vec::new();
    for file in files(&src()) {
        let module = module_of(&file);
        let row = row(&module).unwrap_or_else(|| panic!("{}: module {module} has no row", file.display()));
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for wrong in forbidden(row, code) {
                broken.push(format!("{}:{}: {module} must not know {wrong}", file.display(), number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_table_runs_downhill() {
    for (at, row) in TABLE.iter().enumerate() {
        for import in row.may_import {
            let below = TABLE[..at].iter().any(|earlier| earlier.module == *import);
            assert!(below, "{} imports {import}, which does not stand above it", row.module);
        }
    }
}

#[test]
fn the_check_sees_a_forbidden_import() {
    let memory = row("memory").unwrap();
    assert_eq!(forbidden(memory, "use crate::disk::Disk;"), ["crate::disk"]);
    assert_eq!(forbidden(memory, "let x: redb::Database;"), ["redb"]);
    assert_eq!(forbidden(memory, "use crate::entry::Entry;"), Vec::<String>::new());
    assert_eq!(forbidden(memory, "use crate::{engine::Cache, entry::Entry};"), ["crate::{"]);
}

fn row(module: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.module == module)
}

/// What `code` names that `row` may not know.
fn forbidden(row: &Row, code: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name: String = rest.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        if name.is_empty() {
            // A group would hide names from this check.
            wrong.push("crate::{".to_owned());
        } else if name.starts_with(char::is_lowercase)
            && name != row.module
            && !row.may_import.contains(&name.as_str())
        {
            wrong.push(format!("crate::{name}"));
        }
    }
    for guarded in GUARDED.iter().filter(|guarded| !row.crates.contains(guarded)) {
        if uses_crate(code, guarded) {
            wrong.push((*guarded).to_owned());
        }
    }
    wrong
}

/// Whether `code` has `name::` as the beginning of a path.
fn uses_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|char| !char.is_alphanumeric() && char != '_' && char != ':')
    })
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The top-level module a file belongs to.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(src()).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}
