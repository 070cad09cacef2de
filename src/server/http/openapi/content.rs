//! What everybody may read: the text, reciters, translations.

use serde_json::json;

use super::operation::Operation;

pub(super) fn operations() -> Vec<Operation> {
    let surah = |path, summary| {
        content(path, summary)
            .takes("query.translation")
            .refuses(404, "SURAH_NOT_FOUND", "the number is not one of 1 to 114, in its one spelling")
            .refuses(404, "TRANSLATION_NOT_FOUND", "there is no such translation")
            .refuses(404, "TRANSLATION_NOT_AVAILABLE", "it is listed, but its texts are not loaded")
            .cached("quran:surah:{number}[:{translation}]", SEVEN_DAYS, SURAHS_CHANGED)
    };
    vec![
        content("/api/v1/surahs", "The list of surahs")
            .about("With the source and licence of the Arabic text.")
            .json(200, "All surahs, by number", "SurahList")
            .answer_headers(200, VALIDATED)
            .cached("quran:surahs", SEVEN_DAYS, SURAHS_CHANGED),
        surah("/api/v1/surahs/{number}", "One surah with its ayahs")
            .json(200, "The surah", "Surah")
            .answer_headers(200, VALIDATED),
        surah("/api/v1/surahs/{number}/ayahs/{ayah}", "One ayah")
            .about("Cut out of the cached surah; it has no key of its own.")
            .json(200, "The ayah, with the number of its surah", "Ayah")
            .answer_headers(200, VALIDATED)
            .refuses(404, "AYAH_NOT_FOUND", "the surah has no ayah of that number, in its one spelling"),
        content("/api/v1/reciters", "The list of reciters")
            .json(200, "All reciters, by id", "ReciterList")
            .answer_headers(200, VALIDATED)
            .cached("reciters:list", SEVEN_DAYS, RECITERS_CHANGED),
        content("/api/v1/reciters/{id}", "One reciter")
            .json(200, "The reciter", "Reciter")
            .answer_headers(200, VALIDATED)
            .refuses(404, "RECITER_NOT_FOUND", "there is no such reciter")
            .cached("reciter:{id}", SEVEN_DAYS, RECITERS_CHANGED),
        content("/api/v1/translations", "The list of translations")
            .about("Also those that could be imported; `available` says which are loaded.")
            .json(200, "All translations, by id", "TranslationList")
            .answer_headers(200, VALIDATED)
            .cached("translations:list", SEVEN_DAYS, TRANSLATIONS_CHANGED),
        content("/api/v1/translations/{id}", "One translation")
            .json(200, "The translation", "Translation")
            .answer_headers(200, VALIDATED)
            .refuses(404, "TRANSLATION_NOT_FOUND", "there is no such translation")
            .cached("translation:{id}", SEVEN_DAYS, TRANSLATIONS_CHANGED),
    ]
}

/// What all content answers have in common.
fn content(path: &'static str, summary: &'static str) -> Operation {
    Operation::get(path, summary)
        .tag("Content")
        .takes("IfNoneMatch")
        .takes("IfModifiedSince")
        .takes("Range")
        .takes("IfRange")
        .takes("AcceptEncoding")
        .answer(206, "The bytes that `Range` asks for", vec![("application/json", json!({}))], PARTIAL)
        .answer(304, "The client has it already", Vec::new(), UNCHANGED)
        .refuses(401, "UNAUTHORIZED", "`content_auth = user`, and there is no valid token of a user")
        .refuses(401, "TOKEN_INVALID", "`content_auth = user`, and the token is not a valid one")
        .refuses(429, "RATE_LIMITED", "more reads than `limits.rate_reads` allows this client")
        .refuses(429, "TOO_MANY_FAILED_LOGINS", "from this address; a right token is never refused for them")
        .refuses(406, "NOT_ACCEPTABLE", "`Accept-Encoding` leaves no coding, not even identity")
        .refuses(416, "RANGE_NOT_SATISFIABLE", "`Range` lies beyond the end")
        .refuses_all(SOURCE)
}

/// How reading through the cache can fail.
const SOURCE: &[(u16, &str, &str)] = &[
    (
        500,
        "CONTENT_DAMAGED",
        "the stored document is damaged and is not served; `hifz verify --repair` helps",
    ),
    (502, "SOURCE_REFUSED", "the source gave an answer that is not acceptable"),
    (503, "SOURCE_UNAVAILABLE", "the source does not answer"),
    (503, "CLOSING", "the server is being stopped"),
    (503, "SOURCE_TIMED_OUT", "the source took too long"),
];

/// Headers of a whole answer.
const VALIDATED: &[&str] = &["ETag", "Last-Modified", "Cache-Control", "Age", "Cache-Status"];

/// Headers of an answer without a body.
const UNCHANGED: &[&str] = VALIDATED;

/// Headers of a part.
const PARTIAL: &[&str] = &["ETag", "Last-Modified", "Cache-Control", "Age", "Cache-Status", "Content-Range"];

const SEVEN_DAYS: &str = "7 days (`ttl` of its namespace)";

const SURAHS_CHANGED: &[&str] = &[
    "a change of the surah or of its translation",
    "an import that touches it",
    "invalidation of its key, of the namespace `quran` or of the tag `surahs`",
    "`POST /admin/v1/clear`",
];

const RECITERS_CHANGED: &[&str] = &[
    "a change of the reciter",
    "an import that touches it",
    "invalidation of its key, of its namespace or of the tag `reciters`",
    "`POST /admin/v1/clear`",
];

const TRANSLATIONS_CHANGED: &[&str] = &[
    "a change of the translation",
    "an import that touches it",
    "invalidation of its key, of its namespace or of the tag `translations`",
    "`POST /admin/v1/clear`",
];
