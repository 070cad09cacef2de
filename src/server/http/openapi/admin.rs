//! What the admin token opens: changes of content, and the cache.

use serde_json::json;

use super::operation::{Access, Operation};

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = changes();
    operations.extend([
        admin(Operation::post("/admin/v1/import", "Import an archive"))
            .about(
                "A `quran-json` npm tarball, or an export of hifz. One transaction: all of it, or nothing.",
            )
            .body_of(
                "application/gzip",
                "The archive, at most `limits.body`",
                &json!({"type": "string", "format": "binary"}),
            )
            .json(200, "What was changed; what depended on it is invalidated", "ImportReport")
            .refuses(408, "BODY_TIMED_OUT", "the body made no progress for `limits.body_timeout`")
            .refuses(413, "DOCUMENT_TOO_LARGE", "the archive or what it holds is too large")
            .refuses_all(FOREIGN)
            .refuses(422, "DOCUMENT_INVALID", "it is not such an archive; `place` names the file")
            .refuses_all(WRITES),
        admin(Operation::get("/admin/v1/export", "Export all content"))
            .about("A hot backup that import reads back identically.")
            .takes("query.bookmarks")
            .answer(
                200,
                "The archive",
                vec![("application/gzip", json!({"schema": {"type": "string", "format": "binary"}}))],
                &["Content-Disposition"],
            ),
        admin(Operation::delete("/admin/v1/users/{id}", "Erase a user"))
            .tag("Bookmarks")
            .about("The user's bookmarks, stored and cached. Conditions name the state of the list.")
            .takes("IfMatch")
            .takes("IfNoneMatch")
            .takes("IfUnmodifiedSince")
            .bare(204, "Erased, durably; also when there was nothing")
            .refuses(400, "KEY_INVALID", "the id of the user is empty or too long")
            .refuses(412, "PRECONDITION_FAILED", "a condition does not hold; nothing was changed")
            .refuses_all(WRITES),
        admin(Operation::post("/admin/v1/verify", "Check every record"))
            .about("Of the disk tier and the content store, in small steps while everything else goes on.")
            .takes("query.repair")
            .takes("query.progress")
            .answer(200, "What was found; line by line where `progress` asks for it", vec![("application/json", json!({"schema": {"type": "object"}}))], &[])
            .text(200, "", "application/x-ndjson")
            .refuses(500, "CONTENT_DAMAGED", "the content store cannot be read to its end")
            .refuses_all(WRITES),
        admin(Operation::post("/admin/v1/warm", "Warm the cache"))
            .about("Told line by line as NDJSON, or as server-sent events by `Accept`; the last line is a summary.")
            .body_of("application/json", "`{\"only\":[…]}` or nothing", &json!({"type": "object"}))
            .text(200, "Lines as it goes on", "application/x-ndjson")
            .text(200, "", "text/event-stream")
            .refuses(400, "BODY_BROKEN", "the body ended before its announced length")
            .refuses(413, "DOCUMENT_TOO_LARGE", "the body is too large")
            .refuses(422, "DOCUMENT_INVALID", "`only` names something else than `surahs`, `reciters`, `translations`")
            .refuses_all(WRITES),
    ]);
    operations
        .into_iter()
        .map(|operation| if operation.tag.is_empty() { operation.tag("Cache") } else { operation })
        .collect()
}

/// Changes of single documents.
fn changes() -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, schema, code) in [
        ("/admin/v1/surahs/{number}", "Surah", "SURAH_NOT_FOUND"),
        ("/admin/v1/reciters/{id}", "Reciter", "NOT_FOUND"),
        ("/admin/v1/translations/{id}", "Translation", "NOT_FOUND"),
    ] {
        let put = admin(Operation::put(path, "Make or change a document"))
            .tag("Content changes")
            .about("Takes what GET gives; read-only fields are ignored. Exactly the keys that depend on it are invalidated before the answer.")
            .body("The document, at most `limits.body`", schema)
            .bare(200, "Changed, durably")
            .bare(201, "Made, durably")
            .refuses(400, "BODY_BROKEN", "the body ended before its announced length")
            .refuses(408, "BODY_TIMED_OUT", "the body made no progress for `limits.body_timeout`")
            .refuses(413, "DOCUMENT_TOO_LARGE", "the body is larger than `limits.body`")
            .refuses(404, "NOT_FOUND", "what it depends on is not there: the surah or the translation")
            .refuses(422, "DOCUMENT_INVALID", "the document breaks a rule; `place` names the field")
            .refuses_all(WRITES);
        let delete = admin(Operation::delete(path, "Delete a document"))
            .tag("Content changes")
            .about("It stays deleted over restarts. The keys that depend on it are invalidated before the answer.")
            .bare(204, "Deleted, durably")
            .refuses(404, "NOT_FOUND", "there is no such document")
            .refuses_all(WRITES);
        for operation in [put, delete] {
            let operation = match schema {
                "Surah" => operation.takes("query.translation").refuses(
                    404,
                    "TRANSLATION_NOT_FOUND",
                    "there is no such translation",
                ),
                _ => operation,
            };
            let precondition =
                "`If-Match`, `If-None-Match` or `If-Unmodified-Since` does not hold; nothing was changed";
            let operation = operation.takes("IfMatch").takes("IfUnmodifiedSince").takes("IfNoneMatch");
            let operation = operation.refuses(412, "PRECONDITION_FAILED", precondition);
            let operation = operation.refuses_all(FOREIGN);
            operations.push(operation.refuses(404, code, "there is nothing of that number or id"));
        }
    }
    operations
}

fn admin(operation: Operation) -> Operation {
    operation.access(Access::Admin)
}

/// Where content is another server's.
const FOREIGN: &[(u16, &str, &str)] =
    &[(409, "CONTENT_NOT_OURS", "content is read from `source.url`: change it there")];

/// How a durable change can fail.
const WRITES: &[(u16, &str, &str)] = &[
    (500, "DISK_NOT_TRUSTED", "what is on disk cannot be trusted; the log says what"),
    (503, "DISK_FAILED", "it could not be made durable; try again"),
    (503, "CLOSING", "the server is being stopped"),
];
