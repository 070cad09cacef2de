//! What operators and machines ask: health, metrics, the description itself.

use serde_json::json;

use super::operation::{Access, Operation};

pub(super) fn operations() -> Vec<Operation> {
    let health = |path| {
        operation(Operation::get(path, "How the parts are"))
            .about("Degraded is still 200: what can be answered is answered.")
            .json(200, "`ok` or `degraded`, with a reason for each part that is not well", "Health")
            .json(503, "`unavailable`: nothing can be answered", "Health")
    };
    let page = |path, summary, description| {
        operation(Operation::get(path, summary))
            .takes("IfNoneMatch")
            .text(200, description, "text/html")
            .bare(304, "Unchanged")
    };
    vec![
        page("/", "What this is, and where everything else is", "For people; JSON by `Accept`")
            .json(200, "For programs", "Home"),
        health("/api/v1/health"),
        health("/api/v1/health/"),
        operation(Operation::get("/livez", "Whether the process answers"))
            .about("Asks nothing else: a failing part is no reason to restart the process.")
            .text(200, "`ok`", "text/plain"),
        operation(Operation::get("/readyz", "Whether to send it requests"))
            .about("Not while it is being stopped, not before the first warming is done where `warm.wait` says so, and not without a content store.")
            .text(200, "`ok`", "text/plain")
            .refuses(503, "NOT_READY", "not yet, or not any more; `detail` says why"),
        operation(Operation::get("/metrics", "Figures for Prometheus"))
            .about("`OpenMetrics` by `Accept: application/openmetrics-text`.")
            .text(200, "Text exposition format, or `OpenMetrics`", "text/plain")
            .text(200, "", "application/openmetrics-text"),
        operation(Operation::get("/openapi.json", "This description"))
            .takes("IfNoneMatch")
            .answer(200, "OpenAPI 3.1", vec![("application/json", json!({"schema": {"type": "object"}}))], &["ETag"])
            .bare(304, "Unchanged"),
        page("/docs", "This description, for people", "A page that asks nothing of any other host")
            .answer_headers(200, &["ETag"]),
        operation(Operation::get("/admin/v1/stats", "Figures at this moment"))
            .access(Access::Admin)
            .about("Counters since the start, sizes, latencies, alerts and the states of health.")
            .json(200, "The figures", "Stats"),
        operation(Operation::get("/admin/v1/config", "The settings as they hold"))
            .access(Access::Admin)
            .about("Each with its value and where it came from; secrets are hidden.")
            .json(200, "All settings", "Config"),
    ]
}

fn operation(operation: Operation) -> Operation {
    operation.tag("Operations")
}
