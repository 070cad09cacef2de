//! Settings, seen from outside: the real binary, its own directory, its own environment.

#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

use serde_json::Value;

use crate::cli::Hifz;

fn setting(config: &Value, key: &str) -> (String, String) {
    let settings = config["settings"].as_array().expect("settings are a list");
    let found = settings.iter().find(|setting| setting["key"] == key).expect("the key is listed");
    let text = |name: &str| found[name].as_str().expect("a text").to_owned();
    (text("value"), text("origin"))
}

#[test]
fn config_tells_every_value_and_where_it_came_from() {
    let hifz = Hifz::new();
    hifz.write("hifz.toml", "memory = '100MB'\ndisk = '1GB'\n[limits]\nbody_timeout = '5s'\n");
    let outcome =
        hifz.run_with(&["config", "--json", "--disk", "2GB"], &[("HIFZ_LIMITS_BODY_TIMEOUT", "6s")]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let config: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(setting(&config, "memory"), ("100MB".to_owned(), "hifz.toml:1".to_owned()));
    assert_eq!(setting(&config, "disk"), ("2GB".to_owned(), "flag --disk".to_owned()));
    let body_timeout = ("6s".to_owned(), "environment variable HIFZ_LIMITS_BODY_TIMEOUT".to_owned());
    assert_eq!(setting(&config, "limits.body_timeout"), body_timeout);
    assert_eq!(setting(&config, "listen"), ("127.0.0.1:8080".to_owned(), "default".to_owned()));
}

#[test]
fn a_secret_is_in_no_output_and_refused_as_a_flag() {
    let hifz = Hifz::new();
    let secret = "s3cr3t-0123456789-abcdef";
    for arguments in [&["config"][..], &["config", "--json"]] {
        let outcome = hifz.run_with(arguments, &[("HIFZ_ADMIN_TOKEN", secret)]);
        assert_eq!(outcome.code, 0);
        assert!(!outcome.out.contains(secret) && !outcome.err.contains(secret));
        assert!(outcome.out.contains("(hidden)"));
    }
    for arguments in [&["config", "--admin-token", secret][..], &["--admin-token=s3cr3t-0123456789-abcdef"]] {
        let outcome = hifz.run(arguments);
        assert_eq!(outcome.code, 2);
        assert!(outcome.err.contains("HIFZ_ADMIN_TOKEN_FILE"), "{outcome:?}");
        assert!(!outcome.err.contains(secret) && !outcome.out.contains(secret));
    }
}

#[test]
fn refused_settings_end_with_2_and_name_all_of_them_with_file_and_line() {
    let hifz = Hifz::new();
    hifz.write("other.toml", "memry = 5\nflush_interval = '1 parsec'\n");
    for arguments in [&["--config", "other.toml"][..], &["serve", "--config", "other.toml"]] {
        let outcome = hifz.run(arguments);
        assert_eq!(outcome.code, 2);
        for part in ["memry (other.toml:1)", "did you mean memory?", "flush_interval (other.toml:2)", "100ms"]
        {
            assert!(outcome.err.contains(part), "{part} in {outcome:?}");
        }
    }
    let outcome = hifz.run(&["config", "--json", "--config", "other.toml"]);
    let error: Value = serde_json::from_str(&outcome.err).unwrap();
    assert_eq!((outcome.code, error["error"].as_str()), (2, Some("SETTINGS")));
    assert_eq!(error["problems"].as_array().map(Vec::len), Some(2));
    assert_eq!(hifz.run(&["config", "--config", "missing.toml"]).code, 2);
}

#[test]
fn an_unknown_variable_is_a_warning_not_a_refusal() {
    let outcome = Hifz::new().run_with(&["config"], &[("HIFZ_SERVICE_HOST", "10.0.0.1")]);
    assert_eq!(outcome.code, 0);
    assert!(outcome.err.contains("warning") && outcome.err.contains("HIFZ_SERVICE_HOST"));
}

#[test]
fn a_negative_number_as_a_flag_is_refused_with_what_is_accepted() {
    let outcome = Hifz::new().run(&["config", "--flush-interval", "-1s", "--memory", "-5"]);
    assert_eq!(outcome.code, 2);
    for part in
        ["flush_interval (flag --flush-interval): \"-1s\" is negative; accepted", "memory (flag --memory)"]
    {
        assert!(outcome.err.contains(part), "{part} in {outcome:?}");
    }
}

#[test]
fn config_tells_what_a_running_server_goes_by_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let _server = crate::common::Server::start_with(directory.path(), &["--memory", "64MB"]);
    let hifz = Hifz::new();
    let data = directory.path().to_str().unwrap();
    let outcome = hifz.run(&["config", "--data-dir", data]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.err.contains("goes by memory = 64MB (flag --memory)"), "{outcome:?}");
    assert!(!outcome.err.contains("max_entries"), "{outcome:?}");
    let outcome = hifz.run(&["config", "--json", "--data-dir", data]);
    let config: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(setting(&config, "memory").0, "500MB");
    assert_eq!(setting(&config["server"], "memory").0, "64MB");
}
