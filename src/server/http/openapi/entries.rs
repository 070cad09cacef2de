//! The raw cache: entries, batches, listing, invalidation, explanations, events.

use serde_json::{Value, json};

use super::operation::{Access, Operation};

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = vec![
        entries(Operation::get("/admin/v1/entries", "List entries"))
            .about("What stands fresh in memory or on disk, in no order; `cursor` goes on where a listing ended.")
            .takes("query.namespace")
            .takes("query.prefix")
            .takes("query.pattern")
            .takes("query.limit")
            .takes("query.cursor")
            .json(200, "Some of them, without their values", "EntryList")
            .refuses(400, "PARAMETER_INVALID", "a parameter is not accepted, or stands twice; `place` names it"),
    ];
    operations.extend(of_one_key("/admin/v1/entries/{key}"));
    for (path, summary, asked, answered, done) in [
        (
            "/admin/v1/entries/get",
            "Read many entries",
            "Keys",
            "EntriesRead",
            "What was found, and what was not",
        ),
        ("/admin/v1/entries/set", "Write many entries", "EntriesToSet", "EntriesSet", "All are written"),
        (
            "/admin/v1/entries/exists",
            "Ask for many entries",
            "Keys",
            "EntriesExist",
            "Which of them stand fresh",
        ),
    ] {
        // The same address is that of a key of one word.
        operations.extend(of_one_key(path));
        let batch = entries(Operation::post(path, summary))
            .about("At most 10 000 keys and `limits.body` bytes. Setting is all or nothing; asking whether keys exist counts as no question.")
            .body("By JSON", asked)
            .json(200, done, answered)
            .refuses(400, "PARAMETER_INVALID", "an option is not accepted; `place` names it")
            .refuses(403, "FORBIDDEN", "a key belongs to a user")
            .refuses(409, "KEY_RESERVED", "a key belongs to built-in content")
            .refuses(413, "VALUE_TOO_LARGE", "a value is larger than `limits.value` or the cache")
            .refuses_all(BODY);
        operations.push(batch);
    }
    operations.extend(invalidations());
    operations.push(
        cache(Operation::get("/admin/v1/explain/{key}", "Everything about one key"))
            .about("Where it stands and for how long yet, what invalidates it, or why it is not served.")
            .json(200, "Also of a key that nothing stands under", "Explanation")
            .refuses(400, "KEY_INVALID", "the key is empty, too long or malformed"),
    );
    operations.push(
        cache(Operation::get("/admin/v1/events", "What happens, as it happens"))
            .about("Events: `content`, `invalidated`, `removed` and `answered` (summed up each second, with some keys as a sample), `rejected`, `state`, `alert`, `missed`.")
            .takes("LastEventId")
            .text(200, "Server-sent events; the stream ends with the server", "text/event-stream"),
    );
    operations
}

/// What can be done with what stands under one key.
fn of_one_key(path: &'static str) -> [Operation; 3] {
    let key =
        |operation| entries(operation).refuses(400, "KEY_INVALID", "the key is empty, too long or malformed");
    let any = || json!({"schema": Value::Object(serde_json::Map::new())});
    [
        key(Operation::get(path, "Read one entry"))
            .about("The bytes as they were written, under their own media type. Asks no source. HEAD counts as no question.")
            .takes("IfNoneMatch")
            .takes("IfModifiedSince")
            .takes("Range")
            .takes("IfRange")
            .takes("AcceptEncoding")
            .answer(200, "The value", vec![("*/*", any())], &["ETag", "Last-Modified", "Age", "X-Hifz-Ttl", "X-Hifz-Tags"])
            .answer(206, "The bytes that `Range` asks for", vec![("*/*", any())], &["ETag", "Content-Range"])
            .answer(304, "The client has it already", Vec::new(), &["ETag"])
            .refuses(403, "FORBIDDEN", "it belongs to a user, who alone may read it")
            .refuses(404, "KEY_NOT_FOUND", "nothing fresh stands under the key")
            .refuses(406, "NOT_ACCEPTABLE", "`Accept-Encoding` leaves no coding, not even identity")
            .refuses(416, "RANGE_NOT_SATISFIABLE", "`Range` lies beyond the end"),
        key(Operation::put(path, "Write one entry"))
            .about("Durable as `durability` says. The media type is kept; without one it is `application/octet-stream`.")
            .takes("query.ttl")
            .takes("query.tags")
            .takes("IfMatch")
            .takes("IfNoneMatch")
            .takes("IfUnmodifiedSince")
            .body_of("application/octet-stream", "The value, at most `limits.value`", &json!({"type": "string", "format": "binary"}))
            .bare(200, "Written over what stood there")
            .bare(201, "Written")
            .refuses(400, "PARAMETER_INVALID", "`ttl`, `tags` or the media type is not accepted; `place` names it")
            .refuses(409, "KEY_RESERVED", "the key belongs to built-in content")
            .refuses(412, "PRECONDITION_FAILED", "a condition does not hold; nothing was changed")
            .refuses(413, "VALUE_TOO_LARGE", "the value is larger than `limits.value` or the cache")
            .refuses(415, "CODING_NOT_ACCEPTED", "the body has a `Content-Encoding`")
            .refuses_all(BODY),
        key(Operation::delete(path, "Delete one entry"))
            .about("Durable before it is answered; built-in keys too.")
            .takes("IfMatch")
            .takes("IfNoneMatch")
            .takes("IfUnmodifiedSince")
            .bare(204, "Deleted: it does not come back, whatever happens to the process")
            .refuses(404, "KEY_NOT_FOUND", "nothing fresh stood under the key")
            .refuses(412, "PRECONDITION_FAILED", "a condition does not hold; nothing was changed")
            .refuses_all(DURABLE),
    ]
}

fn invalidations() -> [Operation; 4] {
    [
        cache(Operation::get("/admin/v1/namespaces", "List namespaces"))
            .json(200, "Each with what it holds and how it was asked", "NamespaceList"),
        cache(Operation::post("/admin/v1/namespaces/{ns}/invalidate", "Invalidate a namespace"))
            .about("At the same cost however many keys it has; durable before it is answered.")
            .takes("query.dry_run")
            .json(200, "How many live keys that were", "Invalidated")
            .refuses(400, "KEY_INVALID", "the name is not one of a namespace")
            .refuses(400, "PARAMETER_INVALID", "`dry_run` is neither true nor false, or stands twice")
            .refuses_all(DURABLE),
        cache(Operation::post("/admin/v1/invalidate", "Invalidate by keys, pattern, prefix or tags"))
            .about("Exactly one of them; durable before it is answered. Patterns are globs as Redis has them, prefixes are literal.")
            .body("What to invalidate", "Invalidation")
            .json(200, "How many live keys are no longer served; for tags an upper bound", "Invalidated")
            .refuses_all(BODY)
            .refuses_all(DURABLE),
        cache(Operation::post("/admin/v1/clear", "Clear the whole cache"))
            .about("Content is untouched.")
            .json(200, "How many live keys that were", "Invalidated")
            .refuses_all(DURABLE),
    ]
}

fn entries(operation: Operation) -> Operation {
    operation.tag("Raw entries").access(Access::Admin).refuses_all(CLOSING)
}

fn cache(operation: Operation) -> Operation {
    operation.tag("Cache").access(Access::Admin).refuses_all(CLOSING)
}

const CLOSING: &[(u16, &str, &str)] = &[(503, "CLOSING", "the server is being stopped")];

/// How a body can be refused.
const BODY: &[(u16, &str, &str)] = &[
    (400, "BODY_BROKEN", "the body ended before its announced length"),
    (408, "BODY_TIMED_OUT", "the body made no progress for `limits.body_timeout`"),
    (413, "DOCUMENT_TOO_LARGE", "the body, or what it asks for, is larger than `limits.body`"),
    (422, "DOCUMENT_INVALID", "the document breaks a rule; `place` names the field"),
    (503, "DISK_FAILED", "durability is `always`, and the disk failed"),
];

/// How a durable change can fail.
const DURABLE: &[(u16, &str, &str)] = &[
    (500, "DISK_NOT_TRUSTED", "what is on disk cannot be trusted; the log says what"),
    (503, "DISK_FAILED", "it could not be made durable; memory has forgotten it all the same"),
];
