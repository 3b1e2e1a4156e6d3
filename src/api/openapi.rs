//! The specification of what [`URLS`] lists: every route with its parameters, bodies and answers.
//!
//! [`urls`] is the table, [`schemas`] the bodies. Tests compare the table with the routes that are served, and real
//! answers with the schemas.

pub mod schemas;
pub mod urls;

use utoipa::OpenApi as _;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, InfoBuilder, OpenApi, PathsBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
};

pub use self::urls::{Answer, Param, Place, URLS, Url};

/// The media type of every refusal.
const PROBLEM: &str = "application/problem+json";

/// The specification.
#[must_use]
pub fn specification() -> OpenApi {
    let mut specification = schemas::Schemas::openapi();
    let about = "Serves multi-agent LLM workflows: durable, streamed, with exact backpressure. Every refusal is a problem \
                 body with a stable code; the runbook has a heading for each.";
    specification.info =
        InfoBuilder::new().title("AgenticFleet").version(env!("CARGO_PKG_VERSION")).description(Some(about)).build();
    let paths = URLS.iter().fold(PathsBuilder::new(), |paths, url| {
        let method = match url.method {
            "POST" => HttpMethod::Post,
            "DELETE" => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        paths.path(url.path, PathItem::new(method, operation(url)))
    });
    specification.paths = paths.build();
    specification
}

fn operation(url: &Url) -> Operation {
    let mut operation = OperationBuilder::new().summary(Some(url.summary)).operation_id(Some(operation_id(url)));
    for name in url.path.split('{').skip(1).filter_map(|part| part.split_once('}')) {
        operation = operation.parameter(parameter(&Param::path(name.0)));
    }
    for param in url.params {
        operation = operation.parameter(parameter(param));
    }
    if let Some(body) = url.body {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(body))).build();
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
        operation = operation.request_body(Some(body.build()));
    }
    for (status, answer) in url.answers {
        operation = operation.response(status.to_string(), response(*status, *answer));
    }
    for status in url.refuses {
        operation = operation.response(status.to_string(), refusal(*status));
    }
    operation.build()
}

/// `GET /api/v1/history/{id}` is `get_api_v1_history_id`.
fn operation_id(url: &Url) -> String {
    let words = url.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(url.method.to_lowercase()).chain(words.map(str::to_owned)).collect::<Vec<_>>().join("_")
}

fn parameter(param: &Param) -> Parameter {
    let (place, required) = match param.place {
        Place::Path => (ParameterIn::Path, Required::True),
        Place::Query { required: true } => (ParameterIn::Query, Required::True),
        Place::Query { required: false } => (ParameterIn::Query, Required::False),
        Place::Header => (ParameterIn::Header, Required::False),
    };
    let kind = if param.is_number { Type::Integer } else { Type::String };
    let schema = ObjectBuilder::new().schema_type(kind);
    let parameter = ParameterBuilder::new().name(param.name).parameter_in(place).required(required);
    parameter.description(Some(param.about)).schema(Some(schema)).build()
}

fn response(status: u16, answer: Answer) -> Response {
    let response = ResponseBuilder::new().description(reason(status));
    let json = |schema: RefOr<Schema>| ContentBuilder::new().schema(Some(schema)).build();
    let one = |name: &str| RefOr::Ref(Ref::from_schema_name(name));
    let text = || RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build()));
    match answer {
        Answer::Empty => response.build(),
        Answer::Json(name) => response.content("application/json", json(one(name))).build(),
        Answer::List(name) => {
            let list = ArrayBuilder::new().items(one(name)).build();
            response.content("application/json", json(RefOr::T(Schema::Array(list)))).build()
        }
        Answer::Names => {
            let list = ArrayBuilder::new().items(text()).build();
            response.content("application/json", json(RefOr::T(Schema::Array(list)))).build()
        }
        Answer::Pages(name) => {
            let list = ArrayBuilder::new().items(one(name)).build();
            let next = ObjectBuilder::new().schema_type(Type::String).build();
            let next =
                HeaderBuilder::new().schema(Some(next)).description(Some("for `before`; absent on the last page"));
            let response = response.header("X-Next-Cursor", next.build());
            response.content("application/json", json(RefOr::T(Schema::Array(list)))).build()
        }
        Answer::Events => response.content("text/event-stream", json(one("Event"))).build(),
        Answer::EventsOr(name) => response
            .content("text/event-stream", json(one("Event")))
            .content("application/json", json(one(name)))
            .build(),
        Answer::Text(kind) => response.content(kind, json(text())).build(),
    }
}

fn refusal(status: u16) -> Response {
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(reason(status)).content(PROBLEM, problem);
    if matches!(status, 429 | 503) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
        let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("seconds"));
        return response.header("Retry-After", header.build()).build();
    }
    response.build()
}

fn reason(status: u16) -> &'static str {
    let status = actix_web::http::StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("Error")
}
