//! The description as one page: plain HTML and one style sheet inside it, no script, no request to anywhere.

use std::fmt::Write as _;

use serde_json::Value;

/// The page of `document`.
pub(super) fn render(document: &Value) -> String {
    let mut groups = String::new();
    for tag in list(&document["tags"]) {
        groups.push_str(&group(document, tag));
    }
    let title = format!("{} {}", text(&document["info"]["title"]), text(&document["info"]["version"]));
    let links: Vec<String> = list(&document["tags"])
        .map(|tag| {
            format!(
                "<li><a href=\"#{0}\">{1}</a></li>",
                anchor(text(&tag["name"])),
                escape(text(&tag["name"]))
            )
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
        <meta name=\"color-scheme\" content=\"light dark\"><style>{STYLE}</style></head><body>\
        <a class=\"skip\" href=\"#main\">Skip to the operations</a>\
        <header><h1>{title}</h1><p>{summary} <a href=\"/openapi.json\">The same as OpenAPI 3.1</a>.</p>\
        <nav aria-label=\"Groups\"><ul>{links}<li><a href=\"#schemas\">Schemas</a></li></ul></nav></header>\
        <main id=\"main\">{about}{groups}{schemas}</main></body></html>\n",
        title = escape(&title),
        links = links.concat(),
        summary = escape(text(&document["info"]["summary"])),
        about = prose(text(&document["info"]["description"])),
        schemas = schemas(document),
    )
}

/// The style sheet, which the page's policy names by its digest.
pub(in crate::server::http) const STYLE: &str = include_str!("page.css");

fn group(document: &Value, tag: &Value) -> String {
    let name = text(&tag["name"]);
    let mut operations = String::new();
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            if list(&operation["tags"]).any(|own| own == name) {
                operations.push_str(&entry(document, method, path, operation));
            }
        }
    }
    format!(
        "<section id=\"{}\"><h2>{}</h2>{}{operations}</section>",
        anchor(name),
        escape(name),
        prose(text(&tag["description"]))
    )
}

fn entry(document: &Value, method: &str, path: &str, operation: &Value) -> String {
    let asks_for = |scheme: &str| operation["security"][0][scheme].is_array();
    let who =
        [("adminToken", "admin token"), ("userToken", "user token")].into_iter().find(|who| asks_for(who.0));
    let lock = who.map_or_else(String::new, |(_, token)| format!("<span class=\"who\">{token}</span>"));
    format!(
        "<details id=\"{id}\"><summary><h3><span class=\"method {method}\">{method}</span> <code>{path}</code></h3> \
        <span class=\"what\">{summary}</span>{lock}</summary>{description}{parameters}{body}{responses}</details>",
        id = escape(text(&operation["operationId"])),
        path = breakable(path),
        summary = escape(text(&operation["summary"])),
        description = prose(text(&operation["description"])),
        parameters = parameters(document, operation),
        body = body(document, &operation["requestBody"]),
        responses = responses(document, &operation["responses"]),
    )
}

fn parameters(document: &Value, operation: &Value) -> String {
    let mut rows = String::new();
    for parameter in list(&operation["parameters"]) {
        let parameter = resolved(document, parameter);
        let need = if parameter["required"] == true { ", required" } else { "" };
        // Writing into a String cannot fail.
        write!(
            rows,
            "<tr><th scope=\"row\"><code>{}</code></th><td>{}{need}</td><td>{}{}</td></tr>",
            escape(text(&parameter["name"])),
            escape(text(&parameter["in"])),
            inline(text(&parameter["description"])),
            bounds(&parameter["schema"]),
        )
        .unwrap_or_default();
    }
    table("Parameters", ["Name", "Where", "What"], &rows)
}

fn body(document: &Value, body: &Value) -> String {
    if body.is_null() {
        return String::new();
    }
    let media: String =
        members(&body["content"]).map(|(media, content)| content_of(document, media, content)).collect();
    format!("<h4>Body</h4>{}{media}", prose(text(&body["description"])))
}

fn responses(document: &Value, responses: &Value) -> String {
    let mut rows = String::new();
    for (status, response) in members(responses) {
        let headers: Vec<_> = members(&response["headers"])
            .filter(|(name, _)| *name != "X-Request-Id")
            .map(|(name, _)| format!("<code>{}</code>", escape(name)))
            .collect();
        let headers = if headers.is_empty() {
            String::new()
        } else {
            format!("<p>Headers: {}</p>", headers.join(", "))
        };
        let is_problem = |media: &str| media == "application/problem+json";
        let content: String = members(&response["content"])
            .filter(|(media, _)| !is_problem(media))
            .map(|(media, content)| content_of(document, media, content))
            .collect();
        write!(
            rows,
            "<tr><th scope=\"row\">{status}</th><td>{}{headers}{content}</td></tr>",
            prose(text(&response["description"]))
        )
        .unwrap_or_default();
    }
    table("Answers", ["Status", "What", ""], &rows)
}

/// A media type, the schema it holds and an example of it.
fn content_of(document: &Value, media: &str, content: &Value) -> String {
    let pointer = text(&content["schema"]["$ref"]);
    let name = pointer.rsplit('/').next().unwrap_or_default();
    let link =
        if name.is_empty() { String::new() } else { format!(": <a href=\"#schema-{name}\">{name}</a>") };
    let example = [&content["example"], &resolved(document, &content["schema"])["example"]];
    let example = example.into_iter().find(|example| !example.is_null());
    let example = example.map_or_else(String::new, |example| {
        format!("<pre tabindex=\"0\" dir=\"auto\">{}</pre>", escape(&format!("{example:#}")))
    });
    format!("<p><code>{}</code>{link}</p>{example}", escape(media))
}

fn schemas(document: &Value) -> String {
    let mut entries = String::new();
    for (name, schema) in members(&document["components"]["schemas"]) {
        write!(
            entries,
            "<details id=\"schema-{name}\"><summary><h3><code>{name}</code></h3></summary>{}<pre tabindex=\"0\" dir=\"auto\">{}</pre></details>",
            prose(text(&schema["description"])),
            escape(&format!("{schema:#}")),
            name = escape(name),
        )
        .unwrap_or_default();
    }
    format!("<section id=\"schemas\"><h2>Schemas</h2>{entries}</section>")
}

/// What a schema says of a value, in words.
fn bounds(schema: &Value) -> String {
    let words = [
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("maxLength", "at most characters:"),
        ("default", "default"),
        ("pattern", "as"),
    ];
    let said: Vec<_> = words
        .iter()
        .filter(|(key, _)| !schema[key].is_null())
        .map(|(key, word)| format!("{word} <code>{}</code>", escape(&plain(&schema[key]))))
        .collect();
    if said.is_empty() { String::new() } else { format!(" <small>({})</small>", said.join(", ")) }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn table(title: &str, heads: [&str; 3], rows: &str) -> String {
    let heads: Vec<String> = heads
        .iter()
        .filter(|head| !head.is_empty())
        .map(|head| format!("<th scope=\"col\">{head}</th>"))
        .collect();
    format!(
        "<h4>{title}</h4><div class=\"wide\"><table><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table></div>",
        heads.concat()
    )
}

/// Follows a `$ref`.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let pointer = value["$ref"].as_str().and_then(|pointer| pointer.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

/// Paragraphs, lists of lines that begin with `- `, and `code`.
fn prose(source: &str) -> String {
    let mut out = String::new();
    for block in source.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let (items, lines): (Vec<_>, Vec<_>) = block.lines().partition(|line| line.starts_with("- "));
        if !lines.is_empty() {
            write!(out, "<p>{}</p>", inline(&lines.join(" "))).unwrap_or_default();
        }
        if !items.is_empty() {
            let items: Vec<String> =
                items.iter().map(|item| format!("<li>{}</li>", inline(&item[2..]))).collect();
            write!(out, "<ul>{}</ul>", items.concat()).unwrap_or_default();
        }
    }
    out
}

fn inline(source: &str) -> String {
    let mut out = String::new();
    for (at, part) in source.split('`').enumerate() {
        let part = escape(part);
        if at % 2 == 0 {
            out.push_str(&part);
        } else {
            write!(out, "<code>{part}</code>").unwrap_or_default();
        }
    }
    out
}

/// A path that may be broken before each of its slashes.
fn breakable(path: &str) -> String {
    escape(path).replace('/', "<wbr>/")
}

fn anchor(name: &str) -> String {
    name.to_ascii_lowercase().replace(' ', "-")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_escaped_and_marked_up() {
        assert_eq!(
            prose("a <b> `c&d`\n\nmore:\n- one\n- `two`"),
            "<p>a &lt;b&gt; <code>c&amp;d</code></p><p>more:</p><ul><li>one</li><li><code>two</code></li></ul>"
        );
    }
}
