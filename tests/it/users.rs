//! Who is let in: user tokens of every kind against the real binary, and what each may open.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Reply, Server};

/// A token of `user`, signed by the command line with what the directory and the variables say.
pub(crate) fn token_with(directory: &Path, user: &str, flags: &[&str], variables: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["token", user, "--data-dir"])
        .arg(directory)
        .args(flags)
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The same, with the directory's own key but out of sight of its server, which would be asked whether it takes it.
fn stray_token(directory: &Path, user: &str, flags: &[&str], variables: &[(&str, &str)]) -> String {
    let elsewhere = tempdir().unwrap();
    std::fs::copy(directory.join("hifz.key"), elsewhere.path().join("hifz.key")).unwrap();
    token_with(elsewhere.path(), user, flags, variables)
}

pub(crate) fn token(directory: &Path, user: &str) -> String {
    token_with(directory, user, &[], &[])
}

/// A request with a bearer token.
pub(crate) fn ask(server: &Server, token: &str, method: &str, path: &str, body: &str) -> Reply {
    let authorization = format!("Bearer {token}");
    server.send(method, path, &[("Authorization", &authorization)], body.as_bytes())
}

fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

const AMINA: &str = "/api/v1/users/amina/bookmarks";

#[test]
fn every_kind_of_caller_gets_what_is_theirs_and_no_more() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let (amina, bilal) = (token(directory.path(), "amina"), token(directory.path(), "bilal"));
    let admin = server.token.clone();
    let routes = [
        ("GET", AMINA, 200),
        ("PUT", "/api/v1/users/amina/bookmarks/2:255", 201),
        ("DELETE", "/api/v1/users/amina/bookmarks/2:255", 204),
        ("PUT", AMINA, 422),
        ("DELETE", AMINA, 204),
    ];
    for (method, path, own) in routes {
        let nobody = server.send(method, path, &[], b"");
        assert_eq!(code(&nobody), (401, "UNAUTHORIZED".into()), "{method} {path}");
        assert_eq!(nobody.header("www-authenticate"), Some("Bearer realm=\"hifz\""));
        let wrong = ask(&server, "wrong", method, path, "");
        assert_eq!(code(&wrong), (401, "TOKEN_INVALID".into()), "{method} {path}");
        assert!(wrong.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
        assert_eq!(
            code(&ask(&server, &bilal, method, path, "")),
            (403, "FORBIDDEN".into()),
            "{method} {path}"
        );
        assert_eq!(
            code(&ask(&server, &admin, method, path, "")),
            (403, "FORBIDDEN".into()),
            "{method} {path}"
        );
        assert_eq!(ask(&server, &amina, method, path, "").status, own, "{method} {path}");
        let twice =
            [("Authorization", format!("Bearer {amina}")), ("Authorization", format!("Bearer {bilal}"))];
        let twice: Vec<_> = twice.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(server.send(method, path, &twice, b"").status, 401, "two tokens are none");
    }
    for (method, path) in
        [("POST", "/admin/v1/namespaces/quran/invalidate"), ("DELETE", "/admin/v1/users/amina")]
    {
        assert_eq!(
            code(&ask(&server, &amina, method, path, "")),
            (403, "FORBIDDEN".into()),
            "{method} {path}"
        );
        assert_eq!(code(&ask(&server, "wrong", method, path, "")), (401, "UNAUTHORIZED".into()));
        assert_eq!(server.send(method, path, &[], b"").status, 401);
    }
}

#[test]
fn no_trick_with_the_path_opens_another_users_bookmarks() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let amina = token(directory.path(), "amina");
    let bilal = token(directory.path(), "bilal");
    ask(&server, &amina, "PUT", AMINA, r#"{"bookmarks":[{"surah":2,"ayah":255,"note":"private words"}]}"#);
    for path in [
        "/api/v1/users/bilal/../amina/bookmarks",
        "/api/v1/users/bilal%2F..%2Famina/bookmarks",
        "/api/v1/users/%61mina/bookmarks",
        "/api/v1/users/%2561mina/bookmarks",
        "/api/v1/users/amina%00/bookmarks",
        "/api/v1/users/AMINA/bookmarks",
        "/api/v1/users/amina%20/bookmarks",
        "/api/v1/users//amina/bookmarks",
        "/api/v1/users/amina/bookmarks/",
        "/api/v1/users/amina/bookmarks?id=bilal&sub=bilal",
        "/api/v1/users/amina;bilal/bookmarks",
        "//api/v1/users/amina/bookmarks",
        "/api/v1/users/bilal/bookmarks#/../../amina/bookmarks",
        "/api/v1/users/%ff/bookmarks",
    ] {
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS"] {
            let odd = [
                ("Authorization", format!("Bearer {bilal}")),
                ("X-Original-URL", AMINA.to_owned()),
                ("X-HTTP-Method-Override", "GET".to_owned()),
                ("X-Forwarded-User", "amina".to_owned()),
                ("Cookie", format!("token={amina}")),
            ];
            let odd: Vec<_> = odd.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let reply = server.send(method, path, &odd, b"");
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(!text.contains("private words"), "{method} {path}: {text}");
            assert!(reply.status != 200 || path.contains("/bilal/"), "{method} {path}: {}", reply.status);
        }
    }
    assert_eq!(ask(&server, &amina, "GET", AMINA, "").status, 200);
    let spelled = ask(&server, &amina, "GET", "/api/v1/users/%61mina/bookmarks", "");
    assert!(spelled.status == 200 && spelled.is_hit(), "her own id, however it is spelled, is one key");
    assert_eq!(ask(&server, &amina, "GET", AMINA, "").json()["bookmarks"][0]["note"], json!("private words"));
}

#[test]
fn a_token_ends_when_it_says_and_only_the_configured_secret_signs() {
    let directory = tempdir().unwrap();
    let secret = ("HIFZ_JWT_SECRET", "a-secret-of-more-than-32-characters!!");
    let server = Server::launch(
        directory.path(),
        &["--jwt-audience", "hifz"],
        &[secret],
        std::process::Stdio::inherit(),
    );
    let audience = ["--jwt-audience", "hifz"];
    let good = token_with(directory.path(), "amina", &audience, &[secret]);
    assert_eq!(ask(&server, &good, "GET", AMINA, "").status, 200);
    let refused = [
        stray_token(directory.path(), "amina", &[], &[]),
        stray_token(
            directory.path(),
            "amina",
            &audience,
            &[("HIFZ_JWT_SECRET", "another-secret-of-32-characters!!!!")],
        ),
        stray_token(directory.path(), "amina", &[], &[secret]),
        stray_token(directory.path(), "amina", &["--jwt-audience", "other"], &[secret]),
        format!("{}.", good.rsplit_once('.').unwrap().0),
        // {"alg":"none"} before the same claims.
        format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap()),
    ];
    for token in refused {
        let reply = ask(&server, &token, "GET", AMINA, "");
        assert_eq!(code(&reply), (401, "TOKEN_INVALID".into()));
        assert!(!String::from_utf8_lossy(&reply.body).contains("amina"));
    }
}

#[test]
fn tokens_of_a_key_set_are_accepted_by_algorithm_and_name() {
    let directory = tempdir().unwrap();
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name);
    let keys = fixture("jwks.json");
    let flags = [
        "--jwks-file",
        keys.to_str().unwrap(),
        "--jwt-audience",
        "hifz",
        "--jwt-issuer",
        "https://id.example",
    ];
    let server = Server::start_with(directory.path(), &flags);
    let tokens: Value = serde_json::from_slice(&std::fs::read(fixture("jwks-tokens.json")).unwrap()).unwrap();
    let status = |name: &str| ask(&server, tokens[name].as_str().unwrap(), "GET", AMINA, "").status;
    assert_eq!((status("rs256"), status("es256"), status("expired")), (200, 200, 401));
    // Signed with the data directory's own key, which no longer counts.
    let own = stray_token(directory.path(), "amina", &[], &[]);
    assert_eq!(ask(&server, &own, "GET", AMINA, "").status, 401);
    let refused = Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["token", "amina", "--data-dir"])
        .arg(directory.path())
        .args(flags)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains("jwks_file"), "{said}");
}

#[test]
fn a_token_that_the_running_server_would_refuse_is_not_handed_out() {
    let directory = tempdir().unwrap();
    let secret = ("HIFZ_JWT_SECRET", "a-secret-of-more-than-32-characters!!");
    let server = Server::launch(directory.path(), &[], &[secret], std::process::Stdio::inherit());
    let token = |variables: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_hifz"))
            .args(["token", "amina", "--data-dir"])
            .arg(directory.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    };
    let refused = token(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{said}");
    assert!(
        said.contains("hifz.key") && said.contains("HIFZ_JWT_SECRET") && said.contains(&server.address),
        "{said}"
    );
    let signed = token(&[secret]);
    let token = String::from_utf8(signed.stdout).unwrap();
    assert_eq!(ask(&server, token.trim(), "GET", AMINA, "").status, 200);
}

#[test]
fn content_for_users_asks_for_a_user_and_is_private() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--content-auth", "user"]);
    for path in [
        "/api/v1/surahs",
        "/api/v1/surahs/1",
        "/api/v1/surahs/1/ayahs/1",
        "/api/v1/reciters",
        "/api/v1/translations",
    ] {
        assert_eq!(server.get(path).status, 401, "{path}");
        assert_eq!(ask(&server, "wrong", "GET", path, "").status, 401, "{path}");
        let reply = ask(&server, &token(directory.path(), "amina"), "GET", path, "");
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("cache-control").unwrap().starts_with("private"), "{path}");
        assert!(reply.headers.iter().any(|(name, value)| name == "vary" && value.contains("authorization")));
        assert_eq!(server.send("OPTIONS", path, &[], b"").status, 204, "{path}");
    }
    assert_eq!(server.get("/api/v1/health").status, 200);
}

#[test]
fn a_token_that_is_short_lived_or_for_no_user_is_refused_by_the_command_line() {
    let directory = tempdir().unwrap();
    Server::start(directory.path()).terminate();
    for arguments in
        [["", "--ttl", "1h"], ["amina", "--ttl", "0"], ["amina", "--ttl", "-1s"], ["amina", "--ttl", "soon"]]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_hifz"))
            .args(["token", "--data-dir"])
            .arg(directory.path())
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}
