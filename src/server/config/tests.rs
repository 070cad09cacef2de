//! The settings as a whole: names, layers, refusals, defaults.

use std::io::Write;

use super::parse::parse_size;
use super::*;

fn read(
    flags: &[(&str, &str)],
    variables: &[(&str, &str)],
    file: &str,
) -> Result<(Settings, Vec<Warning>), Problems> {
    let mut layers = Layers::default();
    layers.take_file_text(Path::new("hifz.toml"), file);
    layers.take_environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
    let flags: Flags =
        flags.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect();
    layers.take_flags(&flags);
    Settings::of(layers)
}

fn refusal(flags: &[(&str, &str)], variables: &[(&str, &str)], file: &str) -> String {
    read(flags, variables, file).unwrap_err().to_string()
}

fn effective<'s>(settings: &'s Settings, key: &str) -> (&'s str, &'s str) {
    let found = settings.effective().iter().find(|effective| effective.key == key).unwrap();
    (&found.value, &found.origin)
}

/// Written from the contract, not from the table; the outside view of `tests/it` reads the same lines.
const CONTRACT: &str = include_str!("../../../tests/it/fixtures/settings.txt");

#[test]
fn every_setting_of_the_contract_is_there_with_its_default_and_no_other() {
    let (settings, warnings) = read(&[], &[], "").unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let contract: Vec<_> = CONTRACT.lines().map(|line| line.split_once(" = ").unwrap()).collect();
    for (key, value) in &contract {
        let (shown, origin) = effective(&settings, key);
        assert_eq!((key, shown, origin), (key, normal(key, value).as_str(), "default"));
    }
    let plain = settings.effective().iter().filter(|effective| !effective.key.starts_with("namespaces."));
    assert_eq!(plain.count(), contract.len());
}

/// Sizes may be shown in another unit of the same value.
fn normal(key: &str, value: &str) -> String {
    let is_size =
        matches!(key, "memory" | "disk" | "limits.key" | "limits.value" | "limits.body" | "limits.header");
    if is_size { show_size(parse_size(value).unwrap()) } else { value.to_owned() }
}

#[test]
fn typed_defaults_are_those_of_the_contract() {
    let (settings, _) = read(&[], &[], "").unwrap();
    assert_eq!((settings.memory, settings.disk), (500_000_000, 2_200_000_000));
    assert_eq!((settings.limits.key, settings.limits.value), (1024, 32 << 20));
    assert_eq!((settings.limits.body, settings.limits.header), (64 << 20, 32 << 10));
    assert_eq!(settings.limits.idle_timeout, Duration::from_secs(75));
    let other = settings.namespace("mine");
    assert_eq!((other.ttl, other.negative_ttl), (Duration::from_hours(1), Duration::from_secs(30)));
    assert_eq!((other.stale_if_error, other.client_max_age), (Duration::ZERO, None));
    assert_eq!((other.jitter.to_bits(), other.max_share.to_bits()), (0, 1.0_f64.to_bits()));
    for name in ["quran", "reciters", "reciter", "translations", "translation"] {
        let content = settings.namespace(name);
        assert_eq!(content.ttl, Duration::from_hours(168));
        assert_eq!(content.stale_while_revalidate, Duration::from_hours(1));
        assert_eq!(content.stale_if_error, Duration::from_hours(24));
        assert_eq!(content.client_max_age, Some(Duration::from_hours(1)));
    }
    assert_eq!(settings.namespace("user").ttl, Duration::from_hours(1));
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_default() {
    let file = "memory = '1MB'\n[limits]\nkey = 10\nvalue = 20\n";
    let variables = [("HIFZ_MEMORY", "2MB"), ("HIFZ_LIMITS_KEY", "11")];
    let (settings, _) = read(&[("memory", "3MB")], &variables, file).unwrap();
    assert_eq!((settings.memory, settings.limits.key, settings.limits.value), (3_000_000, 11, 20));
    assert_eq!(effective(&settings, "memory"), ("3MB", "flag --memory"));
    assert_eq!(effective(&settings, "limits.key"), ("11", "environment variable HIFZ_LIMITS_KEY"));
    assert_eq!(effective(&settings, "limits.value"), ("20", "hifz.toml:4"));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_near_name() {
    let text = refusal(&[], &[], "memory = 1000000\nmemmory = 5\n[limit]\nkey = 3\n[limits]\nbodi = 3\n");
    for part in [
        "memmory (hifz.toml:2): unknown setting; did you mean memory?",
        "[limit] (hifz.toml:3): unknown table; did you mean limits?",
        "limits.bodi (hifz.toml:6): unknown setting; did you mean limits.body?",
        "3 settings",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(refusal(&[], &[], "header_timeout = 3").contains("did you mean limits.header_timeout?"));
}

#[test]
fn all_problems_of_all_layers_are_said_at_once_with_value_origin_and_what_is_accepted() {
    let variables = [("HIFZ_DISK", "12XB"), ("HIFZ_LISTEN", "8080")];
    let text =
        refusal(&[("durability", "sometimes")], &variables, "flush_interval = -1\nmax_entries = true\n");
    for part in [
        "disk (environment variable HIFZ_DISK): \"12XB\" has the unknown unit \"XB\"; accepted: a size such as 500MB",
        "listen (environment variable HIFZ_LISTEN): \"8080\"",
        "durability (flag --durability): \"sometimes\" is not one of the words; accepted: interval, always, none",
        "flush_interval (hifz.toml:1): \"-1\" is negative; accepted: a duration",
        "max_entries (hifz.toml:2): \"true\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn an_unknown_variable_is_only_warned_about() {
    let (_, warnings) =
        read(&[], &[("HIFZ_MEMORRY", "1"), ("OTHER", "2"), ("HIFZ_CONFIG", "x")], "").unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("HIFZ_MEMORRY"));
    assert!(warnings[0].to_string().contains("did you mean HIFZ_MEMORY?"));
}

#[test]
fn secrets_come_from_the_environment_the_file_or_a_file_and_are_never_shown() {
    let mut secret_file = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret_file, "from-a-file-0123456789").unwrap();
    let path = secret_file.path().to_str().unwrap();

    let (settings, _) =
        read(&[], &[("HIFZ_ADMIN_TOKEN_FILE", path)], "admin_token = 'weaker-token'").unwrap();
    assert_eq!(settings.admin_token.as_ref().unwrap().expose(), "from-a-file-0123456789");
    let (settings, _) =
        read(&[], &[("HIFZ_ADMIN_TOKEN", "stronger-token-1")], &format!("admin_token_file = {path:?}"))
            .unwrap();
    assert_eq!(settings.admin_token.as_ref().unwrap().expose(), "stronger-token-1");

    let shown = format!("{settings:?} {}", serde_json::to_string(settings.effective()).unwrap());
    assert!(!shown.contains("stronger-token"), "{shown}");
    assert_eq!(effective(&settings, "admin_token").0, "(hidden)");
    let text = refusal(&[], &[("HIFZ_ADMIN_TOKEN", "two words-s3cr3t")], "");
    assert!(text.contains("admin_token") && !text.contains("s3cr3t"), "{text}");
}

#[test]
fn a_secret_is_refused_as_a_flag_as_a_missing_file_and_twice_in_one_place() {
    let text = refusal(&[("admin_token", "s3cr3t-token-words")], &[], "");
    assert!(text.contains("HIFZ_ADMIN_TOKEN_FILE") && !text.contains("s3cr3t"), "{text}");
    assert!(refusal(&[], &[("HIFZ_ADMIN_TOKEN_FILE", "/no/such/file")], "").contains("cannot be read"));
    assert!(refusal(&[], &[], "admin_token = 'a'\nadmin_token_file = 'b'").contains("both set"));
}

#[test]
fn lists_are_comma_separated_or_arrays_and_name_the_element_refused() {
    let (settings, _) = read(&[], &[], "listen = ['localhost:1', 'unix:/tmp/x.sock']").unwrap();
    assert_eq!(settings.listen.len(), 2);
    let (settings, _) = read(&[("admin_listen", "127.0.0.1:1,127.0.0.1:2")], &[], "").unwrap();
    assert_eq!(settings.admin_listen.len(), 2);
    assert!(refusal(&[], &[], "listen = ['127.0.0.1:1', 'x']").contains("has \"x\", which has no port"));
    assert!(refusal(&[], &[], "listen = []").contains("at least one"));
    assert!(refusal(&[], &[], "listen = ['127.0.0.1:1', '127.0.0.1:1']").contains("twice"));
    assert!(refusal(&[], &[], "memory = ['1MB', '2MB']").contains("list"));
}

#[test]
fn namespaces_come_from_the_file_and_keep_content_defaults_where_silent() {
    let file = "[namespaces.quran]\nttl = '1d'\n[namespaces.mine]\nmax_share = 0.5\nidle_ttl = '5m'\n";
    let (settings, _) = read(&[], &[], file).unwrap();
    assert_eq!(settings.namespace("quran").ttl, Duration::from_hours(24));
    assert_eq!(settings.namespace("quran").client_max_age, Some(Duration::from_hours(1)));
    assert_eq!(settings.namespace("mine").idle_ttl, Some(Duration::from_mins(5)));
    assert_eq!(effective(&settings, "namespaces.mine.max_share"), ("0.5", "hifz.toml:4"));
    let text = refusal(
        &[],
        &[],
        "[namespaces.a]\ntll = 3\nttl = 0\nmax_share = 0\n[namespaces]\n'b:c' = {}\nd = 3\n",
    );
    for part in ["namespaces.a.tll", "did you mean ttl?"] {
        assert!(text.contains(part) || text.contains("not TOML"), "{part} in {text}");
    }
    let text = refusal(&[], &[], "[namespaces.a]\ntll = 3\nttl = 0\nmax_share = 0\n[namespaces.'b:c']\n");
    for part in
        ["did you mean ttl?", "namespaces.a.ttl (hifz.toml:3)", "max_share (hifz.toml:4)", "contains ':'"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_this_version_lacks_is_warned_about_where_ignoring_it_harms_nobody() {
    let (_, warnings) =
        read(&[], &[], "content_auth = 'public'\n[alerts]\nwebhook = 'http://127.0.0.1/'\nmin_samples = 9")
            .unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].to_string().contains("alerts.webhook (hifz.toml:3) has no effect"));
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_the_line() {
    let text = refusal(&[], &[], "memory = 1000000\n\nlisten = = 3\n");
    assert!(text.contains("hifz.toml:3: not TOML"), "{text}");
    assert!(refusal(&[], &[], "limits = 3").contains("limits"));
    assert!(refusal(&[], &[], "[memory]\nx = 1").contains("a value, not a table"));
    assert!(refusal(&[], &[], "log = 1979-05-27").contains("datetime"));
}

#[test]
fn a_named_file_must_be_there_and_an_unnamed_one_need_not() {
    let none = std::iter::empty();
    let missing = Path::new("/no/such/hifz.toml");
    let text = Settings::load(&Flags::new(), none, Some(missing)).unwrap_err().to_string();
    assert!(text.contains("/no/such/hifz.toml") && text.contains("cannot be read"), "{text}");
    let variables = [("HIFZ_CONFIG".into(), "/no/such/either.toml".into())];
    let text = Settings::load(&Flags::new(), variables.into_iter(), None).unwrap_err().to_string();
    assert!(text.contains("either.toml"), "{text}");
    assert!(Settings::load(&Flags::new(), std::iter::empty(), None).is_ok());
}

/// The same bytes over and over with a few turned, from a fixed seed: what a fuzzer does, in small.
#[test]
fn no_text_makes_the_parsers_panic() {
    let seeds =
        ["500MB", "1h30m", "unix:/x", "[::1]:80", "*/5 0-6 1 jan mon", "10.0.0.0/8", "[limits]\nkey = 3"];
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = usize::try_from(state >> 8).unwrap_or(0) % bytes.len();
            bytes[at] = u8::try_from(state & 0xff).unwrap();
        }
        parse::drive(&bytes);
        let mut layers = Layers::default();
        layers.take_file_text(Path::new("f"), &String::from_utf8_lossy(&bytes));
    }
}
