//! The description against the routes, and against itself.

use std::collections::BTreeSet;

use super::*;
use crate::server::http;

#[test]
fn every_path_of_the_router_is_described_and_no_other() {
    let routes = http::all_routes();
    let served: BTreeSet<_> = routes.paths().iter().copied().collect();
    let described: BTreeSet<_> = operations().iter().map(|operation| operation.path).collect();
    let missing: Vec<_> = served.difference(&described).collect();
    let invented: Vec<_> = described.difference(&served).collect();
    assert!(missing.is_empty(), "add these to src/server/http/openapi/: {missing:?}");
    assert!(invented.is_empty(), "described, but there is no such route: {invented:?}");
}

#[test]
fn every_name_the_description_points_to_is_there_and_none_is_left_over() {
    let document = document(&limits());
    let mut pointed = BTreeSet::new();
    collect_refs(&document, &mut pointed);
    for pointer in &pointed {
        assert!(
            document.pointer(pointer.trim_start_matches('#')).is_some(),
            "{pointer} is not in components.json"
        );
    }
    for kind in ["parameters", "headers", "schemas"] {
        for name in components()[kind].as_object().unwrap().keys() {
            assert!(pointed.contains(&format!("#/components/{kind}/{name}")), "nobody uses {kind} {name}");
        }
    }
}

#[test]
fn operations_differ_in_name_and_say_what_they_answer() {
    let mut ids = BTreeSet::new();
    for operation in operations() {
        let described = operation.to_json();
        assert!(ids.insert(described["operationId"].to_string()), "{} twice", described["operationId"]);
        let name = format!("{} {}", operation.method, operation.path);
        let is_good = |status: &String| status.starts_with('2');
        assert!(described["responses"].as_object().unwrap().keys().any(is_good), "{name}");
        assert!(TAGS.iter().any(|(tag, _)| *tag == operation.tag), "{name} has the tag {:?}", operation.tag);
        let is_content = operation.tag == "Content";
        assert!(!is_content || operation.is_cached(), "{name} does not say how it is cached");
    }
}

#[test]
fn every_code_in_the_source_is_described() {
    let described = document(&limits()).to_string();
    let mut missing = BTreeSet::new();
    for folder in ["src/server/http", "src/server/wire"] {
        for file in std::fs::read_dir(format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            let path = file.unwrap().path();
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for quoted in source.split('"').skip(1).step_by(2).filter(|quoted| is_code(quoted)) {
                if !described.contains(&format!("\"{quoted}\""))
                    && !described.contains(&format!("`{quoted}`"))
                {
                    missing.insert((quoted.to_owned(), path.display().to_string()));
                }
            }
        }
    }
    assert!(
        missing.is_empty(),
        "say in src/server/http/openapi/ which routes answer with these: {missing:#?}"
    );
}

/// Whether a literal has the form of a code; the words that have it too are left out.
fn is_code(quoted: &str) -> bool {
    let is_upper = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    quoted.len() > 3 && quoted.bytes().all(is_upper) && !NO_CODES.contains(&quoted)
}

/// Methods and names of variables.
const NO_CODES: &[&str] =
    &["CARGO_PKG_VERSION", "CONNECT", "HEAD", "OPTIONS", "POST", "DELETE", "PATCH", "TRACE"];

fn collect_refs(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(pointer)) = members.get("$ref") {
                into.insert(pointer.clone());
            }
            members.values().for_each(|member| collect_refs(member, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_refs(item, into)),
        _ => {}
    }
}

fn limits() -> Limits {
    Limits::read(&std::collections::BTreeMap::new()).unwrap()
}
