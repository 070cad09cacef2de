//! `key_prefix`: what stands before built-in keys, and what becomes of what was kept under others.

use serde_json::json;
use tempfile::tempdir;

use crate::common::Server;

#[test]
fn a_prefix_belongs_to_no_namespace_and_its_change_brings_nothing_stale_back() {
    let directory = tempdir().unwrap();
    let prefixed = ["--key-prefix", "app1:"];
    let server = Server::start_with(directory.path(), &prefixed);
    let path = "/api/v1/surahs/112";
    let mut surah = server.get(path).json();
    assert!(server.get(path).is_hit());
    let invalidated = |server: &Server, namespace: &str| {
        server.admin("POST", &format!("/admin/v1/namespaces/{namespace}/invalidate"), b"").json()["invalidated"].clone()
    };
    assert_eq!((invalidated(&server, "app1"), invalidated(&server, "quran")), (json!(0), json!(1)));
    assert!(!server.get(path).is_hit());
    assert_eq!(server.terminate(), 0);

    // Changed under other keys: what stands under the first ones is not told.
    let server = Server::start(directory.path());
    surah["ayahs"][0]["text"] = json!("changed meanwhile");
    assert_eq!(server.admin("PUT", "/admin/v1/surahs/112", surah.to_string().as_bytes()).status, 200);
    assert_eq!(server.terminate(), 0);
    let server = Server::start_with(directory.path(), &prefixed);
    assert_eq!(server.get(path).json()["ayahs"][0]["text"], json!("changed meanwhile"));
    assert_eq!(server.terminate(), 0);
    // And with the same prefix a restart is warm.
    assert!(Server::start_with(directory.path(), &prefixed).get(path).is_hit());
}

#[test]
fn a_prefix_no_key_can_begin_with_is_refused() {
    let directory = tempdir().unwrap();
    for prefix in [":app", &"x".repeat(257)] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"))
            .args(["serve", "--listen", "127.0.0.1:0", "--key-prefix", prefix, "--data-dir"])
            .arg(directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("key_prefix"), "{said}");
    }
}
