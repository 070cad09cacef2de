//! An origin over HTTPS: whom it is trusted by, and what is said when it is not.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use crate::common::Server;
use crate::common::authority::Authority;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_origin_over_https_is_trusted_by_its_authority_in_a_file_or_in_the_system_and_by_no_other() {
    let (behind, files) = (tempdir().unwrap(), tempdir().unwrap());
    let (own, other) = (Authority::new(files.path(), "own.pem"), Authority::new(files.path(), "other.pem"));
    let (cert, key) = own.pair(files.path());
    let origin = Server::start_with(behind.path(), &["--tls-cert", text(&cert), "--tls-key", text(&key)]);
    let url = format!("https://{}/api/v1", origin.address.trim_start_matches("https://"));
    let edge = |ca: Option<&Authority>, system: &Authority, log: &str| {
        let directory = tempdir().unwrap();
        let mut flags = vec!["--source-url", &url, "--source-attempts", "1"];
        flags.extend(ca.iter().flat_map(|ca| ["--source-ca", text(&ca.file)]));
        let log = File::create(files.path().join(log)).unwrap();
        let variables = [("SSL_CERT_FILE", text(&system.file))];
        (Server::launch(directory.path(), &flags, &variables, log), directory)
    };
    let (trusting, _by_file) = edge(Some(&own), &other, "trusting");
    assert_eq!(trusting.get("/api/v1/surahs/112").json()["number"], 112);
    let (trusting, _by_system) = edge(None, &own, "by-system");
    assert_eq!(trusting.get("/api/v1/surahs/112").json()["number"], 112);
    for (ca, system, log) in [(Some(&other), &own, "wary"), (None, &other, "wary-too")] {
        let (wary, _directory) = edge(ca, system, log);
        let reply = wary.get("/api/v1/surahs/112");
        assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("SOURCE_UNAVAILABLE")));
        let said = std::fs::read_to_string(files.path().join(log)).unwrap();
        assert!(said.contains("invalid peer certificate"), "the log says why: {said}");
    }
}

#[test]
fn authorities_that_cannot_be_had_end_the_start_with_the_setting_and_what_is_accepted() {
    let (directory, files) = (tempdir().unwrap(), tempdir().unwrap());
    let (missing, empty) = (files.path().join("missing.pem"), files.path().join("empty.pem"));
    std::fs::write(&empty, "no certificate\n").unwrap();
    let refused = |flags: &[&str], variables: &[(&str, &str)]| {
        let command = ["serve", "--listen", "127.0.0.1:0", "--source-url", "https://127.0.0.1:1/"];
        let output = Command::new(env!("CARGO_BIN_EXE_hifz"))
            .args(command)
            .args(["--data-dir", text(directory.path())])
            .args(flags)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (file, why) in [(&missing, "cannot be read"), (&empty, "holds no certificate; PEM is accepted")] {
        let said = refused(&["--source-ca", text(file)], &[]);
        assert!(said.contains("source.ca") && said.contains(text(file)) && said.contains(why), "{said}");
    }
    let nobody = [("SSL_CERT_FILE", text(&missing)), ("SSL_CERT_DIR", text(&missing))];
    let said = refused(&[], &nobody);
    assert!(said.contains("source.url") && said.contains("no certificate authority is known"), "{said}");
    assert!(said.contains("source.ca or SSL_CERT_FILE"), "{said}");
}
