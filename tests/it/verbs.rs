//! The verbs of the library: what an application calls, with text for keys, options, batches, listings and events.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hifz::clock::{Clock, Timestamp};
use hifz::entry::Entry;
use hifz::{
    Cache, DataDir, ErrorKind, Event, Filter, ListCursor, Namespace, Pattern, Policy, Selector, SetOptions,
    TAGS_MAX, Tag, Ttl,
};
use serde_json::{Value, json};
use tempfile::tempdir;

fn memory_only() -> Cache {
    Cache::builder().memory(1 << 20).open().unwrap()
}

fn on_disk(directory: &Path) -> Cache {
    Cache::builder().memory(1 << 20).data_dir(DataDir::open(directory).unwrap()).open().unwrap()
}

/// A cache that keeps one entry in memory and the rest on disk.
fn mostly_on_disk(directory: &Path) -> Cache {
    let builder = Cache::builder().max_entries(Some(1));
    builder.data_dir(DataDir::open(directory).unwrap()).open().unwrap()
}

fn keys(cache: &Cache, namespace: Option<&str>, prefix: Option<&str>, most: usize) -> Vec<String> {
    let mut filter = Filter::new();
    filter = namespace.into_iter().fold(filter, Filter::namespace);
    filter = prefix.into_iter().fold(filter, Filter::prefix);
    let (mut keys, mut next) = (Vec::new(), Some(ListCursor::default()));
    while let Some(from) = next {
        let page = cache.list(&filter, from, most).unwrap();
        assert!(page.entries.len() <= most);
        keys.extend(page.entries.into_iter().map(|listed| listed.key.to_string()));
        next = page.next;
    }
    keys.sort();
    keys
}

#[test]
fn text_serves_as_key_and_what_is_no_key_is_refused_by_every_verb() {
    let cache = memory_only();
    cache.set("a:1", "value").unwrap();
    cache.set(&"a:2".to_owned(), vec![1, 2]).unwrap();
    assert_eq!(cache.get_many(["a:1", "a:2", "a:3"]).unwrap().iter().flatten().count(), 2);
    assert_eq!(cache.get_bytes("a:2").unwrap().unwrap(), [1, 2].as_slice());
    let long = "k".repeat(1025);
    for wrong in ["", ":a", "a\nb", &long] {
        let kinds = [
            cache.get(wrong).unwrap_err().kind(),
            cache.get_many([wrong]).unwrap_err().kind(),
            cache.set(wrong, "").unwrap_err().kind(),
            cache.set_many([("a:4", ""), (wrong, "")]).unwrap_err().kind(),
            cache.delete(wrong).unwrap_err().kind(),
            cache.exists(wrong).unwrap_err().kind(),
            cache.ttl(wrong).unwrap_err().kind(),
            cache.touch(wrong).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::KeyInvalid; 8], "{wrong:?}");
    }
    assert!(!cache.exists("a:4").unwrap(), "a batch with a bad member changes nothing");
}

#[test]
fn options_set_lifetime_tags_and_media_type_and_are_refused_with_their_name() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let cache = Cache::builder().memory(1 << 20).clock(clock.clone()).open().unwrap();
    let options = SetOptions::new().ttl(Duration::from_secs(10)).tags(["t", "u", "t"]).content_type("text/x");
    cache.set_with("a:1", "value", &options).unwrap();
    assert_eq!(cache.ttl("a:1").unwrap(), Some(Ttl::Left(Duration::from_secs(10))));
    assert_eq!(cache.peek("a:1").unwrap().unwrap().tags().collect::<Vec<_>>(), ["t", "u"]);
    cache.set_until("a:2", "value", Timestamp::NEVER).unwrap();
    assert_eq!(cache.ttl("a:2").unwrap(), Some(Ttl::Forever));
    assert_eq!(cache.ttl("a:3").unwrap(), None);
    clock.advance(Duration::from_secs(10));
    assert_eq!(cache.ttl("a:1").unwrap(), None);

    let too_many: Vec<String> = (0..=TAGS_MAX).map(|number| number.to_string()).collect();
    for (options, place) in [
        (SetOptions::new().ttl(Duration::ZERO), Some("ttl")),
        (SetOptions::new().content_type(""), Some("content_type")),
        (SetOptions::new().content_type("text/plain\r\nx: y"), Some("content_type")),
        (SetOptions::new().tags(["a,b"]), Some("tags")),
        (SetOptions::new().tags(too_many), Some("tags")),
    ] {
        let error = cache.set_with("a:4", "", &options).unwrap_err();
        assert_eq!(error.place(), place, "{error}");
        assert!(!cache.exists("a:4").unwrap());
    }
}

#[test]
fn a_batch_with_a_value_that_is_too_large_changes_nothing_and_names_its_key() {
    let cache = memory_only();
    let large = vec![0; 600 << 10];
    let error = cache.set_many([("a:1", &b"small"[..]), ("a:2", &large)]).unwrap_err();
    assert_eq!((error.kind(), error.place()), (ErrorKind::ValueTooLarge, Some("a:2")));
    assert!(!cache.exists("a:1").unwrap());
    cache.set_many([("a:1", "one"), ("a:2", "two"), ("a:1", "last")]).unwrap();
    assert_eq!(cache.get("a:1").unwrap().unwrap().body(), b"last");
}

#[test]
fn a_batch_of_writes_with_options_of_their_own_keeps_its_order_and_is_all_or_nothing() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let cache = Cache::builder().memory(1 << 20).clock(clock.clone()).open().unwrap();
    let (plain, brief) = (SetOptions::new(), SetOptions::new().ttl(Duration::from_secs(10)));
    let (tagged, refused) = (SetOptions::new().tags(["t"]), SetOptions::new().ttl(Duration::ZERO));
    cache.set("a:1", "before").unwrap();
    let large = vec![0; 600 << 10];
    for (bad, kind, place) in [
        (("", &b"small"[..], &plain), ErrorKind::KeyInvalid, None),
        (("a:2", b"small", &refused), ErrorKind::ArgumentInvalid, Some("ttl")),
        (("a:2", &large, &plain), ErrorKind::ValueTooLarge, Some("a:2")),
    ] {
        let error =
            cache.set_each([("a:1", &b"after"[..], &plain), bad, ("a:3", b"after", &plain)]).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(place.is_none() || error.place() == place, "{error}");
        assert_eq!(cache.get("a:1").unwrap().unwrap().body(), b"before");
        assert!(!cache.exists("a:2").unwrap() && !cache.exists("a:3").unwrap());
    }
    // Of two of one key the later one, with its own options alone.
    let batch = [("a:1", &b"one"[..], &brief), ("a:2", b"two", &brief), ("a:1", b"last", &tagged)];
    cache.set_each(batch).unwrap();
    let last = cache.peek("a:1").unwrap().unwrap();
    assert_eq!((last.body(), last.tags().collect::<Vec<_>>()), (&b"last"[..], vec!["t"]));
    assert_ne!(cache.ttl("a:1").unwrap(), cache.ttl("a:2").unwrap());
    assert_eq!(cache.ttl("a:2").unwrap(), Some(Ttl::Left(Duration::from_secs(10))));
    assert_eq!(cache.invalidate_tag("t").unwrap(), 1);
    cache.set_each(Vec::<(&str, &[u8], &SetOptions)>::new()).unwrap();
}

#[test]
fn a_batch_of_deletes_counts_each_key_once_outlives_the_process_and_is_all_or_nothing() {
    let directory = tempdir().unwrap();
    let cache = mostly_on_disk(directory.path());
    cache.set_many(["a:1", "a:2", "a:3", "b:1"].map(|name| (name, "value"))).unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.delete_many(["a:1", "", "a:2"]).unwrap_err().kind(), ErrorKind::KeyInvalid);
    assert!(cache.exists("a:1").unwrap() && cache.exists("a:2").unwrap());
    assert_eq!(cache.delete_many(Vec::<&str>::new()).unwrap(), 0);
    // In memory and on disk, twice, and never seen.
    assert_eq!(cache.delete_many(["b:1", "a:1", "a:9", "a:1"]).unwrap(), 2);
    let left = || keys(&cache, None, None, 10).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(left(), ["a:2", "a:3"].map(String::from).into());
    assert_eq!(cache.delete_many(["b:1", "a:1"]).unwrap(), 0);
    cache.set("a:1", "written after it").unwrap();
    cache.close().unwrap();
    drop(cache);
    let cache = mostly_on_disk(directory.path());
    assert_eq!(keys(&cache, None, None, 10).into_iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(cache.get("a:1").unwrap().unwrap().body(), b"written after it");
    assert!(!cache.exists("b:1").unwrap());
}

/// Enough that a batch of looks is read ahead, which begins above a few megabytes.
fn well_filled(clock: &Clock) -> Cache {
    let cache = Cache::builder().memory(32 << 20).clock(clock.clone()).open().unwrap();
    let body = vec![7; 4000];
    let names: Vec<String> = (0..2000).map(|number| format!("a:{number}")).collect();
    cache.set_many(names.iter().map(|name| (name.as_str(), &body))).unwrap();
    cache
}

#[test]
fn a_batch_of_looks_answers_as_its_parts_would_in_their_order_and_counts_each() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let cache = well_filled(&clock);
    cache.set_with("a:7", "short", &SetOptions::new().ttl(Duration::from_secs(1))).unwrap();
    cache.set("a:8", "eight").unwrap();
    cache.delete("a:9").unwrap();
    clock.advance(Duration::from_secs(1));
    // More than are read ahead at once; with what is expired, deleted, of another namespace, never seen, and twice asked for.
    let asked: Vec<String> = (0..40).map(|number| format!("a:{number}")).collect();
    let asked = asked.iter().map(String::as_str).chain(["b:0", "a:8", "a:5000", "a:8", "none"]);
    let asked: Vec<&str> = asked.collect();
    let before = cache.stats();
    let found = cache.get_many(asked.iter().copied()).unwrap();
    let after = cache.stats();
    assert_eq!(found.len(), asked.len());
    for (key, found) in asked.iter().zip(&found) {
        let alone = cache.get(*key).unwrap();
        assert_eq!(found.is_some(), alone.is_some(), "{key}");
        assert!(found.as_ref().is_none_or(|found| found.key().as_str() == *key), "{key}");
        assert_eq!(found.as_ref().map(Entry::body), alone.as_ref().map(Entry::body));
    }
    let hits = found.iter().flatten().count() as u64;
    assert_eq!(
        hits,
        40 - 2 + 2,
        "two of forty are over or deleted, one stands that was asked for twice more"
    );
    assert_eq!((after.hits - before.hits, after.misses - before.misses), (hits, asked.len() as u64 - hits));
    assert!(cache.get_many(Vec::<&str>::new()).unwrap().is_empty(), "nothing asked, nothing answered");
}

#[test]
fn what_a_batch_asked_for_counts_as_used_and_outlives_what_nobody_asked_for() {
    let cache = Cache::builder().memory(8 << 20).max_entries(Some(100)).open().unwrap();
    let names: Vec<String> = (0..150).map(|number| format!("a:{number}")).collect();
    cache.set_many(names[..100].iter().map(|name| (name.as_str(), "value"))).unwrap();
    assert!(cache.get_many(names[..50].iter().map(String::as_str)).unwrap().iter().all(Option::is_some));
    cache.set_many(names[100..].iter().map(|name| (name.as_str(), "value"))).unwrap();
    let stays = |name: &String| cache.exists(name.as_str()).unwrap();
    assert!(names[..50].iter().all(stays), "asked for");
    assert!(!names[50..100].iter().any(stays), "not asked for");
    assert!(names[100..].iter().all(stays), "new");
}

#[test]
fn looks_in_batches_never_see_a_key_go_back_while_batches_are_written() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let cache = well_filled(&clock);
    let names: Vec<String> = (0..40).map(|number| format!("a:{number}")).collect();
    let batch = || names.iter().map(String::as_str);
    let write = |round: u64| cache.set_many(batch().map(|name| (name, round.to_le_bytes()))).unwrap();
    write(0);
    let rounds = 300_u64;
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=rounds).for_each(write));
        let mut last = vec![0; names.len()];
        while last.iter().any(|round| *round < rounds) {
            for (last, found) in last.iter_mut().zip(cache.get_many(batch()).unwrap()) {
                let round = u64::from_le_bytes(found.unwrap().body().try_into().unwrap());
                assert!(*last <= round, "{round} after {last}");
                *last = round;
            }
        }
    });
}

#[test]
fn a_touched_entry_lives_longer_or_shorter_and_dies_with_what_it_died_of_before() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let directory = tempdir().unwrap();
    let policy = Policy::with_ttl(Duration::from_secs(10));
    let open = || {
        let builder = Cache::builder().clock(clock.clone()).policy(&Namespace::parse("a").unwrap(), policy);
        builder.data_dir(DataDir::open(directory.path()).unwrap()).open().unwrap()
    };
    let cache = open();
    for key in ["a:longer", "a:shorter", "a:invalidated"] {
        cache.set(key, "value").unwrap();
    }
    clock.advance(Duration::from_secs(9));
    assert!(cache.touch("a:longer").unwrap() && !cache.touch("a:none").unwrap());
    assert!(cache.touch_with("a:shorter", &SetOptions::new().ttl(Duration::from_millis(1))).unwrap());
    assert!(cache.touch_with("a:invalidated", &SetOptions::new().ttl(Duration::from_secs(99))).unwrap());
    cache.delete_pattern("a:inv*").unwrap();
    cache.close().unwrap();
    drop(cache);
    let cache = open();
    clock.advance(Duration::from_secs(9));
    assert!(cache.exists("a:longer").unwrap());
    assert!(!cache.exists("a:shorter").unwrap() && !cache.exists("a:invalidated").unwrap());
}

#[test]
fn touching_beside_deleting_never_brings_a_deleted_value_back() {
    let directory = tempdir().unwrap();
    for cache in [memory_only(), on_disk(directory.path())] {
        for round in 0..200_u32 {
            cache.set("a:1", "value").unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| (0..20).map(|_| u32::from(cache.touch("a:1").unwrap())).sum::<u32>());
                let gone = match round % 3 {
                    0 => cache.delete_pattern("a:1*").unwrap(),
                    1 => cache.invalidate_namespace("a").unwrap(),
                    _ => cache.delete_many(["a:1"]).unwrap(),
                };
                assert_eq!(gone, 1, "round {round}");
                assert!(!cache.exists("a:1").unwrap(), "round {round}");
            });
            assert!(!cache.exists("a:1").unwrap(), "round {round}");
        }
    }
}

#[test]
fn every_selector_counts_what_is_live_in_memory_and_on_disk_once_and_a_preview_says_the_same() {
    let directory = tempdir().unwrap();
    let cache = mostly_on_disk(directory.path());
    let tagged = SetOptions::new().tags(["t"]);
    let fill = || {
        for name in ["a:1:x", "a:2:x", "a:2:y", "b:1:x"] {
            cache.set_with(name, "value", &tagged).unwrap();
        }
        cache.flush().unwrap();
    };
    let key = |text: &str| hifz::Key::parse(text).unwrap();
    let selectors = [
        (Selector::Keys(vec![key("a:1:x"), key("a:1:x"), key("b:1:x"), key("c:1")]), 2),
        (Selector::Pattern(Pattern::parse("?:[12]:x").unwrap()), 3),
        (Selector::prefix("a:2:").unwrap(), 2),
        (Selector::Namespace(Namespace::parse("a").unwrap()), 3),
        (Selector::Pattern(Pattern::parse("a:*").unwrap()), 3),
        (Selector::Tags(vec![Tag::parse("t").unwrap(), Tag::parse("u").unwrap()]), 4),
        (Selector::All, 4),
    ];
    for (selector, count) in &selectors {
        fill();
        assert_eq!(cache.would_invalidate(selector).unwrap(), *count, "preview of {selector}");
        assert_eq!(
            cache.would_invalidate(selector).unwrap(),
            *count,
            "a preview changes nothing: {selector}"
        );
        assert_eq!(cache.invalidate(selector).unwrap(), *count, "{selector}");
        assert_eq!(cache.invalidate(selector).unwrap(), 0, "{selector} again");
        assert_eq!(cache.would_invalidate(selector).unwrap(), 0, "preview of {selector} again");
    }
    assert!(keys(&cache, None, None, 10).is_empty());
}

#[test]
fn a_listing_shows_memory_and_disk_once_whatever_the_size_of_its_pages() {
    let directory = tempdir().unwrap();
    let cache = Cache::builder().max_entries(Some(100)).data_dir(DataDir::open(directory.path()).unwrap());
    let cache = cache.open().unwrap();
    let mut expected = BTreeSet::new();
    for number in 0..700 {
        let name = format!("{}:{number}", if number % 2 == 0 { "even" } else { "odd" });
        cache.set(&name, "value").unwrap();
        expected.insert(name);
        if number == 350 {
            cache.flush().unwrap();
        }
    }
    cache.delete("odd:1").unwrap();
    cache.delete("odd:699").unwrap();
    expected.retain(|name| name != "odd:1" && name != "odd:699");
    let expected: Vec<String> = expected.into_iter().collect();
    for most in [1, 7, 100, 10_000] {
        assert_eq!(keys(&cache, None, None, most), expected, "pages of {most}");
    }
    let odd: Vec<String> = expected.iter().filter(|name| name.starts_with("odd:")).cloned().collect();
    assert_eq!(keys(&cache, Some("odd"), None, 50), odd);
    let odd_6: Vec<String> = odd.iter().filter(|name| name.starts_with("odd:6")).cloned().collect();
    assert_eq!(keys(&cache, Some("odd"), Some("odd:6"), 50), odd_6);
    assert!(keys(&cache, Some("even"), Some("odd:6"), 50).is_empty());
    cache.flush().unwrap();
    assert_eq!(keys(&cache, None, None, 33), expected, "all of it written");
}

#[test]
fn typed_values_come_back_as_they_were_in_either_form() {
    let cache = memory_only();
    let value = vec![("a".to_owned(), Some(1_u64)), ("b".to_owned(), None)];
    cache.set_value("v:1", &value).unwrap();
    cache.set_value_with("v:2", &value, SetOptions::new().json().tags(["t"])).unwrap();
    for key in ["v:1", "v:2"] {
        assert_eq!(cache.get_value::<Vec<(String, Option<u64>)>>(key).unwrap().unwrap(), value);
        assert_eq!(cache.get_value::<Vec<bool>>(key).unwrap_err().place(), Some(key));
    }
    let json: Value = serde_json::from_slice(cache.get("v:2").unwrap().unwrap().body()).unwrap();
    assert_eq!(json, json!([["a", 1], ["b", null]]));
    cache.set("v:3", "plain bytes").unwrap();
    assert_eq!(cache.get_value::<String>("v:3").unwrap_err().kind(), ErrorKind::DocumentInvalid);
    assert_eq!(cache.get_value::<String>("v:4").unwrap(), None);
    assert_eq!(cache.invalidate_tag("t").unwrap(), 1);
}

#[test]
fn a_namespace_handle_reaches_its_own_keys_alone() {
    let cache = memory_only();
    let here = cache.namespace("here").unwrap();
    cache.set("there:1", "value").unwrap();
    here.set("1", "value").unwrap();
    assert!(here.exists("1").unwrap() && cache.exists("here:1").unwrap());
    assert!(here.touch("1").unwrap() && here.ttl("1").unwrap().is_some());
    assert_eq!(here.invalidate().unwrap(), 1);
    assert!(cache.exists("there:1").unwrap());
    assert!(cache.namespace("a:b").is_err());
}

#[test]
fn a_listener_hears_of_invalidations_with_what_was_named_and_how_many_died() {
    let cache = memory_only();
    let mut subscription = cache.subscribe();
    cache.set_many([("a:1", ""), ("a:2", ""), ("b:1", "")]).unwrap();
    cache.delete_many(["a:1", "a:9", "b:1"]).unwrap();
    cache.invalidate_namespace("a").unwrap();
    cache.clear_all().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        if let Some(Event::Invalidated { what, count }) = runtime.block_on(subscription.next()) {
            heard.push((what, count));
        }
    }
    assert_eq!(
        heard,
        [("key a:1 and 2 more".to_owned(), 2), ("namespace a".to_owned(), 1), ("all".to_owned(), 0)]
    );
}
