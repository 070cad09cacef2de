//! What belongs to one user: bookmarks.

use super::operation::{Access, Operation};

pub(super) fn operations() -> Vec<Operation> {
    let (list, one) = ("/api/v1/users/{id}/bookmarks", "/api/v1/users/{id}/bookmarks/{verse}");
    vec![
        user(Operation::get(list, "The bookmarks of a user"))
            .about("In the user's order; an empty list where none was kept. Kept by the client alone and asked about each time.")
            .takes("IfNoneMatch")
            .takes("IfModifiedSince")
            .takes("Range")
            .takes("IfRange")
            .takes("AcceptEncoding")
            .json(200, "The list", "BookmarkList")
            .answer_headers(200, &["ETag", "Cache-Control", "Age", "Cache-Status"])
            .answer(206, "The bytes that `Range` asks for", Vec::new(), &["ETag", "Content-Range"])
            .answer(304, "The client has it already", Vec::new(), &["ETag", "Cache-Control"])
            .refuses(406, "NOT_ACCEPTABLE", "`Accept-Encoding` leaves no coding, not even identity")
            .refuses(416, "RANGE_NOT_SATISFIABLE", "`Range` lies beyond the end")
            .cached(
                "user:{keyed hash of the user's id}:bookmarks",
                "1 hour (`ttl` of its namespace)",
                &["a change of the user's bookmarks", "their erasure", "invalidation of the tag `bookmarks`", "`POST /admin/v1/clear`"],
            ),
        change(Operation::put(list, "Replace the bookmarks of a user"))
            .about("Order is kept; a verse twice is refused, and more than 10 000 bookmarks are.")
            .body("The list, as GET gives it", "BookmarkList")
            .json(200, "Replaced, durably: the list as GET now gives it", "BookmarkList")
            .answer_headers(200, CHANGED)
            .json(201, "The first list of this user, kept durably", "BookmarkList")
            .answer_headers(201, CHANGED)
            .refuses_all(BODY),
        change(Operation::delete(list, "Delete the bookmarks of a user"))
            .bare(204, "Gone, durably; also when there were none"),
        change(Operation::put(one, "Keep one bookmark"))
            .about("With a note or none; a verse that is bookmarked keeps its place.")
            .body("The bookmark, or nothing in it", "Bookmark")
            .json(200, "Changed, durably", "Bookmark")
            .json(201, "Made, durably", "Bookmark")
            .refuses_all(BODY),
        change(Operation::delete(one, "Delete one bookmark"))
            .bare(204, "Gone, durably")
            .refuses(404, "NOT_FOUND", "there is no bookmark of that verse")
            .refuses(422, "DOCUMENT_INVALID", "the path names no verse"),
    ]
}

fn user(operation: Operation) -> Operation {
    operation
        .tag("Bookmarks")
        .access(Access::User)
        .refuses(500, "CONTENT_DAMAGED", "the stored list is damaged and is not served")
        .refuses(503, "CLOSING", "the server is being stopped")
        .refuses(503, "DISK_FAILED", "the content store cannot be read, or the change not be made durable")
}

fn change(operation: Operation) -> Operation {
    user(operation).takes("IfMatch").takes("IfUnmodifiedSince").takes("IfNoneMatch").refuses(
        412,
        "PRECONDITION_FAILED",
        "the list is no longer the one that `If-Match` or `If-Unmodified-Since` names; nothing was changed",
    )
}

/// Headers of a list after a change.
const CHANGED: &[&str] = &["ETag", "Last-Modified", "Cache-Control"];

/// How a body can be refused.
const BODY: &[(u16, &str, &str)] = &[
    (400, "BODY_BROKEN", "the body ended before its announced length"),
    (408, "BODY_TIMED_OUT", "the body made no progress for `limits.body_timeout`"),
    (413, "DOCUMENT_TOO_LARGE", "the body is larger than `limits.body`"),
    (422, "DOCUMENT_INVALID", "the document or the verse breaks a rule; `place` names the field"),
];
