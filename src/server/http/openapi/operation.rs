//! One operation of the interface as a value, and how it becomes JSON. What operations share (schemas, parameters,
//! headers) is named here and described in `components.json`.

use serde_json::{Map, Value, json};

/// What one method does at one path.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    summary: &'static str,
    about: &'static str,
    access: Access,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<Answer>,
    problems: Vec<(u16, &'static str, &'static str)>,
    cache: Option<Value>,
}

/// Who may use an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Access {
    Everybody,
    /// Whoever brings a token of the user that the path names.
    User,
    /// Whoever brings the admin token.
    Admin,
}

/// An answer that is not a problem.
#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    description: &'static str,
    /// By media type: what it holds.
    content: Vec<(&'static str, Value)>,
    headers: &'static [&'static str],
}

impl Operation {
    pub(super) fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new("get", path, summary)
    }

    pub(super) fn put(path: &'static str, summary: &'static str) -> Self {
        Self::new("put", path, summary)
    }

    pub(super) fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new("post", path, summary)
    }

    pub(super) fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new("delete", path, summary)
    }

    fn new(method: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            tag: "",
            summary,
            about: "",
            access: Access::Everybody,
            parameters: path_parameters(path),
            body: None,
            answers: Vec::new(),
            problems: EVERYWHERE.to_vec(),
            cache: None,
        }
    }

    /// The group it is shown in.
    pub(super) fn tag(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }

    /// What a reader must know beyond the summary.
    pub(super) fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    pub(super) fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// A parameter of the query or a request header, by its name in `components.parameters`.
    pub(super) fn takes(mut self, name: &str) -> Self {
        self.parameters.push(json!({"$ref": format!("#/components/parameters/{name}")}));
        self
    }

    /// The JSON body a request brings, by the name of its schema in `components.schemas`.
    pub(super) fn body(self, description: &'static str, schema: &'static str) -> Self {
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        self.body_of("application/json", description, &schema)
    }

    /// The body a request brings.
    pub(super) fn body_of(self, media: &'static str, description: &'static str, schema: &Value) -> Self {
        let content = json!({media: {"schema": schema}});
        Self { body: Some(json!({"required": true, "description": description, "content": content})), ..self }
    }

    /// An answer with a JSON body, by the name of its schema in `components.schemas`.
    pub(super) fn json(self, status: u16, description: &'static str, schema: &str) -> Self {
        let content = json!({"schema": {"$ref": format!("#/components/schemas/{schema}")}});
        self.answer(status, description, vec![("application/json", content)], &[])
    }

    /// An answer with a body of another media type.
    pub(super) fn text(self, status: u16, description: &'static str, media: &'static str) -> Self {
        self.answer(status, description, vec![(media, json!({"schema": {"type": "string"}}))], &[])
    }

    /// An answer without a body.
    pub(super) fn bare(self, status: u16, description: &'static str) -> Self {
        self.answer(status, description, Vec::new(), &[])
    }

    /// Any answer; one of a status that stands already gets the further media types.
    pub(super) fn answer(
        mut self,
        status: u16,
        description: &'static str,
        content: Vec<(&'static str, Value)>,
        headers: &'static [&'static str],
    ) -> Self {
        match self.answers.iter_mut().find(|answer| answer.status == status) {
            Some(answer) => answer.content.extend(content),
            None => self.answers.push(Answer { status, description, content, headers }),
        }
        self
    }

    /// Gives the answers of `status` more headers, by their names in `components.headers`.
    pub(super) fn answer_headers(mut self, status: u16, headers: &'static [&'static str]) -> Self {
        if let Some(answer) = self.answers.iter_mut().find(|answer| answer.status == status) {
            answer.headers = headers;
        }
        self
    }

    /// A problem it may answer with.
    pub(super) fn refuses(mut self, status: u16, code: &'static str, when: &'static str) -> Self {
        self.problems.push((status, code, when));
        self
    }

    /// Several of them.
    pub(super) fn refuses_all(mut self, problems: &[(u16, &'static str, &'static str)]) -> Self {
        self.problems.extend_from_slice(problems);
        self
    }

    /// Under which key the answer is cached, for how long, and what makes the cache forget it.
    pub(super) fn cached(self, key: &str, ttl: &str, forgotten_by: &[&str]) -> Self {
        let cache = json!({"key": key, "ttl": ttl, "invalidated_by": forgotten_by});
        Self { cache: Some(cache), ..self }
    }

    /// Whether the cache stands behind it.
    #[cfg(test)]
    pub(super) fn is_cached(&self) -> bool {
        self.cache.is_some()
    }

    pub(super) fn to_json(&self) -> Value {
        let mut operation = json!({
            "operationId": self.id(),
            "tags": [self.tag],
            "summary": self.summary,
            "responses": self.responses(),
        });
        let description = self.description();
        if !description.is_empty() {
            operation["description"] = description.into();
        }
        let mut parameters = self.parameters.clone();
        parameters.push(json!({"$ref": "#/components/parameters/RequestId"}));
        operation["parameters"] = parameters.into();
        if let Some(body) = &self.body {
            operation["requestBody"] = body.clone();
        }
        if let Some(cache) = &self.cache {
            operation["x-cache"] = cache.clone();
        }
        operation["security"] = match self.access {
            Access::Everybody => json!([]),
            Access::User => json!([{"userToken": []}]),
            Access::Admin => json!([{"adminToken": []}]),
        };
        operation
    }

    /// `GET /admin/v1/stats` as `getAdminV1Stats`.
    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut id = self.method.to_owned();
        for word in words {
            let (first, rest) = word.split_at(1);
            id.push_str(&first.to_ascii_uppercase());
            id.push_str(rest);
        }
        // `/api/v1/health/` differs from `/api/v1/health` by its slash alone.
        if self.path.len() > 1 && self.path.ends_with('/') { id + "Slash" } else { id }
    }

    fn description(&self) -> String {
        let cache = self.cache.as_ref().map(|cache| {
            let forgotten_by: Vec<_> =
                cache["invalidated_by"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            format!(
                "Cached under `{}` for {}; forgotten at once by {}.",
                cache["key"].as_str().unwrap_or_default(),
                cache["ttl"].as_str().unwrap_or_default(),
                forgotten_by.join(", ")
            )
        });
        [Some(self.about.to_owned()).filter(|about| !about.is_empty()), cache]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n\n")
    }

    fn responses(&self) -> Value {
        let mut responses = Map::new();
        for answer in &self.answers {
            let mut response = json!({"description": answer.description, "headers": refs(answer.headers)});
            for (media, content) in &answer.content {
                response["content"][*media] = content.clone();
            }
            responses.insert(answer.status.to_string(), response);
        }
        let mut problems = self.problems.clone();
        match self.access {
            Access::Everybody => {}
            Access::User => problems.extend(USER),
            Access::Admin => problems.extend(ADMIN),
        }
        problems.sort_by_key(|(status, ..)| *status);
        for same in problems.chunk_by(|one, other| one.0 == other.0) {
            if let [(status, ..), ..] = same {
                responses.insert(status.to_string(), problem(*status, same));
            }
        }
        responses.into()
    }
}

/// All problems of one status.
fn problem(status: u16, same: &[(u16, &'static str, &'static str)]) -> Value {
    let mut codes: Vec<_> = same.iter().map(|(_, code, _)| *code).collect();
    codes.dedup();
    let lines: Vec<_> = same.iter().map(|(_, code, when)| format!("`{code}`: {when}")).collect();
    let title = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let example = json!({
        "type": "about:blank", "title": title, "status": status, "code": codes.first(),
        "detail": same.first().map(|(_, _, when)| when), "request_id": "5f1c0e0d9c3b4f3a8f6d2b7a9e4c1d20",
    });
    let schema = json!({"allOf": [
        {"$ref": "#/components/schemas/Problem"},
        {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
    ]});
    let headers: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        416 => &["Content-Range"],
        429 | 503 => &["Retry-After"],
        _ => &[],
    };
    json!({
        "description": lines.join("\n\n"),
        "headers": refs(headers),
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    })
}

/// Response headers by their names in `components.headers`; the request id is in every answer.
fn refs(names: &[&str]) -> Value {
    let name_and_ref =
        |name: &str| (name.to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    names.iter().copied().chain(["X-Request-Id"]).map(name_and_ref).collect::<Map<_, _>>().into()
}

/// The `{…}` of a path, each of which stands as `path.NAME` in `components.parameters`.
fn path_parameters(path: &str) -> Vec<Value> {
    let mut before = "";
    let mut parameters = Vec::new();
    for segment in path.split('/') {
        if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            // Ids of users have no form of their own; those of reciters and translations do.
            let name = if before == "users" { "user" } else { name };
            parameters.push(json!({"$ref": format!("#/components/parameters/path.{name}")}));
        }
        before = segment;
    }
    parameters
}

/// What any request may be told.
const EVERYWHERE: &[(u16, &str, &str)] = &[
    (400, "REQUEST_INVALID", "the request line, a header or the path cannot be understood"),
    (400, "TARGET_INVALID", "the address of the request is none"),
    (400, "HOST_MISSING", "a request of HTTP/1.1 names no host"),
    (400, "HOST_INVALID", "the host is named twice, or is none"),
    (400, "LENGTH_INVALID", "the length of the body is not said, twice said or no number"),
    (400, "HTTPS_ONLY", "plain HTTP where HTTPS is spoken"),
    (408, "HEAD_TIMED_OUT", "the head took longer than `limits.header_timeout`"),
    (414, "TARGET_TOO_LONG", "the address is longer than `limits.header`"),
    (431, "HEAD_TOO_LARGE", "the request head is longer than `limits.header`"),
    (500, "INTERNAL", "the request failed inside the server; the log says why under its request id"),
    (501, "CODING_UNKNOWN", "the body comes in a transfer coding other than chunked"),
    (
        503,
        "BUSY",
        "every connection or load that `limits` allows is taken, or the room for bodies; try again after `Retry-After`",
    ),
    (505, "VERSION_UNKNOWN", "neither HTTP/1 nor HTTP/2"),
    (
        507,
        "MEMORY_TOO_SMALL",
        "what it asks for takes more memory than the limit ever leaves; raise `memory`",
    ),
];

/// What a request for something of one user may be told.
const USER: &[(u16, &str, &str)] = &[
    (400, "KEY_INVALID", "the id of the user is empty or too long"),
    (401, "UNAUTHORIZED", "there is no token of a user"),
    (
        401,
        "TOKEN_INVALID",
        "the token is expired, not yet valid, of another issuer or audience, or not signed by a known key",
    ),
    (403, "FORBIDDEN", "the token is another user's, or the admin's"),
    (
        429,
        "RATE_LIMITED",
        "more requests than `limits.rate_reads` or `limits.rate_writes` allows this client",
    ),
    (429, "TOO_MANY_FAILED_LOGINS", "from this address; a right token is never refused for them"),
];

/// What a request to an admin route may be told.
const ADMIN: &[(u16, &str, &str)] = &[
    (401, "UNAUTHORIZED", "there is no admin token, or a wrong one"),
    (401, "TOKEN_INVALID", "the token is one of a user, and not a valid one"),
    (403, "FORBIDDEN", "the token is a user's"),
    (
        429,
        "RATE_LIMITED",
        "more requests than `limits.rate_reads` or `limits.rate_writes` allows this client",
    ),
    (429, "TOO_MANY_FAILED_LOGINS", "from this address; a right token is never refused for them"),
];
