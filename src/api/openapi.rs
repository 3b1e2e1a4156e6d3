//! The specification of what [`URLS`] lists: every route with its statuses.

use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder, Required, ResponseBuilder};

/// A route as the specification shows it.
#[derive(Clone, Copy, Debug)]
pub struct Url {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// With its parameters in braces.
    pub path: &'static str,
    /// For people.
    pub summary: &'static str,
    /// What it may answer.
    pub statuses: &'static [u16],
}

const fn url(method: &'static str, path: &'static str, summary: &'static str, statuses: &'static [u16]) -> Url {
    Url { method, path, summary, statuses }
}

/// Every resource, in the order of the client contract.
pub const URLS: &[Url] = &[
    url("GET", "/api/v1/types", "The workflows that can be run", &[200]),
    url("GET", "/api/v1/agents", "The roster", &[200]),
    url(
        "POST",
        "/api/v1/run",
        "Run a task and wait for its result; a run that waits for a human answers 202",
        &[201, 202, 400, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504],
    ),
    url("POST", "/api/v1/runs", "Run a task in the background", &[202, 400, 408, 413, 415, 422, 429, 503]),
    url("POST", "/api/v1/conversations", "Make a conversation", &[201, 400, 408, 413, 415, 422, 503]),
    url("GET", "/api/v1/conversations", "Conversations, last changed first (limit, offset)", &[200, 422, 503]),
    url("GET", "/api/v1/conversations/{id}", "A conversation with its messages", &[200, 404, 503]),
    url("DELETE", "/api/v1/conversations/{id}", "Delete a conversation and all that is its own", &[204, 404, 409, 503]),
    url("GET", "/api/v1/sessions", "What runs, waits or ended lately", &[200, 503]),
    url("GET", "/api/v1/sessions/{id}", "One session", &[200, 404, 503]),
    url("DELETE", "/api/v1/sessions/{id}", "Cancel a run", &[204, 404, 429, 503]),
    url("GET", "/api/v1/history", "Finished executions, newest first (limit, offset or before)", &[200, 422, 503]),
    url("DELETE", "/api/v1/history", "Forget every finished execution", &[204, 503]),
    url("GET", "/api/v1/history/{id}", "One finished execution", &[200, 404, 503]),
    url("DELETE", "/api/v1/history/{id}", "Forget one finished execution", &[204, 404, 409, 503]),
    url("GET", "/api/v1/checkpoints", "Checkpoints of a workflow, newest first (workflow_id)", &[200, 404, 422, 503]),
    url("GET", "/api/v1/checkpoints/{id}", "One checkpoint with its steps", &[200, 404, 503]),
    url("POST", "/api/v1/checkpoints/{id}/fork", "A new workflow from there", &[201, 404, 503]),
    url(
        "GET",
        "/api/v1/workflows/{workflow_id}/artifacts/{digest}/{name}",
        "A file that a run made, as a download",
        &[200, 404, 503],
    ),
    url("GET", "/health", "How the parts are", &[200]),
    url("GET", "/ready", "Whether work is taken", &[200, 503]),
    url("GET", "/livez", "Whether the process lives", &[200]),
    url("GET", "/readyz", "Whether work is taken", &[200, 503]),
    url("GET", "/metrics", "Figures in the OpenMetrics text format", &[200]),
];

/// The specification.
#[must_use]
pub fn specification() -> OpenApi {
    let info = InfoBuilder::new().title("AgenticFleet").version(env!("CARGO_PKG_VERSION")).build();
    let paths = URLS.iter().fold(PathsBuilder::new(), |paths, url| {
        let method = match url.method {
            "POST" => HttpMethod::Post,
            "DELETE" => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        paths.path(url.path, PathItem::new(method, operation(url)))
    });
    OpenApiBuilder::new().info(info).paths(paths.build()).build()
}

fn operation(url: &Url) -> OperationBuilder {
    let mut operation = OperationBuilder::new().summary(Some(url.summary));
    for name in url.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        operation = operation.parameter(parameter);
    }
    for status in url.statuses {
        let reason = actix_web::http::StatusCode::from_u16(*status).ok();
        let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or("Error");
        operation = operation.response(status.to_string(), ResponseBuilder::new().description(reason).build());
    }
    operation
}
