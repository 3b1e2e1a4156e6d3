//! The table of routes, in the order of the client contract.

/// A route as the specification shows it.
#[derive(Clone, Copy, Debug)]
pub struct Url {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// With its parameters in braces.
    pub path: &'static str,
    /// For people.
    pub summary: &'static str,
    /// What it takes besides its path and body.
    pub params: &'static [Param],
    /// The schema of its body.
    pub body: Option<&'static str>,
    /// What it answers when it does what it is asked.
    pub answers: &'static [(u16, Answer)],
    /// The statuses of its problem bodies.
    pub refuses: &'static [u16],
}

/// What an answer holds.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Nothing.
    Empty,
    /// One of this schema.
    Json(&'static str),
    /// Many of this schema.
    List(&'static str),
    /// Many of this schema, with the cursor of the next page in a header.
    Pages(&'static str),
    /// Many texts.
    Names,
    /// Server-sent events.
    Events,
    /// Server-sent events, or a page of this schema for who accepts JSON.
    EventsOr(&'static str),
    /// Text of this media type.
    Text(&'static str),
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// A whole number, else a text.
    pub is_number: bool,
    /// For people.
    pub about: &'static str,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query {
        /// Refused without it.
        required: bool,
    },
    /// In a header; never required.
    Header,
}

impl Param {
    pub(super) const fn path(name: &'static str) -> Self {
        Self { name, place: Place::Path, is_number: false, about: "an id" }
    }

    const fn query(name: &'static str, about: &'static str) -> Self {
        Self { name, place: Place::Query { required: false }, is_number: false, about }
    }

    const fn needed(name: &'static str, about: &'static str) -> Self {
        Self { name, place: Place::Query { required: true }, is_number: false, about }
    }

    const fn number(name: &'static str, about: &'static str) -> Self {
        Self { name, place: Place::Query { required: false }, is_number: true, about }
    }

    const fn header(name: &'static str, about: &'static str) -> Self {
        Self { name, place: Place::Header, is_number: false, about }
    }
}

impl Url {
    const fn new(method: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self { method, path, summary, params: &[], body: None, answers: &[], refuses: &[] }
    }

    const fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new("GET", path, summary)
    }

    const fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new("POST", path, summary)
    }

    const fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new("DELETE", path, summary)
    }

    const fn takes(self, params: &'static [Param]) -> Self {
        Self { params, ..self }
    }

    const fn body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    const fn answers(self, answers: &'static [(u16, Answer)]) -> Self {
        Self { answers, ..self }
    }

    const fn refuses(self, refuses: &'static [u16]) -> Self {
        Self { refuses, ..self }
    }

    /// Every status it may answer.
    pub fn statuses(&self) -> impl Iterator<Item = u16> {
        self.answers.iter().map(|(status, _)| *status).chain(self.refuses.iter().copied())
    }
}

const LIMIT: Param = Param::number("limit", "entries of a page, from 1 to `server.page_max`");
const OFFSET: Param = Param::number("offset", "entries to pass over");
const KEY: Param =
    Param::header("Idempotency-Key", "asking again with the same key joins the first run; kept for 24 h");
const TRACE: Param = Param::header("traceparent", "of the W3C's Trace Context: where the caller's trace stands");
const VERSION: Param = Param::query("version", "of the events: 1 or 2");
const STREAM: Param = Param::query("stream", "false: no text before it is whole");
const LAST_ID: Param = Param::header("Last-Event-ID", "go on behind this number; never starts a run");
const WORKFLOW: Param = Param::needed("workflow_id", "the run");

/// Every resource.
pub const URLS: &[Url] = &[
    Url::get("/api/ws/chat", "A WebSocket: version 1, or `fleet.v2` as its subprotocol")
        .takes(&[Param::query("resume", "1: come to resume; a full house lets the handshake through")])
        .answers(&[(101, Answer::Empty)])
        .refuses(&[400, 403, 429, 503]),
    Url::get("/api/chat/{conversation_id}/stream", "Start a run, or join the one that was left, and stream its events")
        .takes(&[
            Param::needed("message", "what is asked"),
            Param::query("reasoning_effort", "minimal, medium or maximal"),
            Param::query(
                "enable_checkpointing",
                "whether the run's positions are listed as checkpoints, true or false; `sessions.enable_checkpointing` when left out",
            ),
            Param::query("client_message_id", "asking again with the same one joins the first run"),
            Param::query("mode", "who works, and how; with `version=2`"),
            VERSION,
            STREAM,
            LAST_ID,
            TRACE,
        ])
        .answers(&[(200, Answer::Events), (204, Answer::Empty)])
        .refuses(&[404, 422, 429, 500, 503]),
    Url::post("/api/chat/{conversation_id}/respond", "Answer a question of a run")
        .takes(&[WORKFLOW])
        .body("Response")
        .answers(&[(200, Answer::Json("Responded"))])
        .refuses(&[400, 404, 408, 409, 413, 415, 422, 503]),
    Url::post("/api/chat/{conversation_id}/cancel", "Stop a run")
        .takes(&[WORKFLOW])
        .answers(&[(200, Answer::Json("Stopped"))])
        .refuses(&[404, 409, 422, 429, 503]),
    Url::get("/api/v1/types", "The workflows that can be run").answers(&[(200, Answer::Names)]),
    Url::get("/api/v1/agents", "The roster").answers(&[(200, Answer::List("Agent"))]),
    Url::post("/api/v1/run", "Run a task and wait for its result; a run that waits for a human answers 202")
        .takes(&[KEY, TRACE])
        .body("Task")
        .answers(&[(201, Answer::Json("RunResult")), (202, Answer::Json("Accepted"))])
        .refuses(&[400, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504]),
    Url::post("/api/v1/runs", "Run a task in the background")
        .takes(&[KEY, TRACE])
        .body("Task")
        .answers(&[(202, Answer::Json("Accepted"))])
        .refuses(&[400, 408, 413, 415, 422, 429, 500, 503]),
    Url::post("/api/v1/classify_intent", "Say what the author of a text wants")
        .body("IntentQuestion")
        .answers(&[(200, Answer::Json("Intent"))])
        .refuses(&[400, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504]),
    Url::post("/api/v1/extract_entities", "List what a text names")
        .body("EntityQuestion")
        .answers(&[(200, Answer::Json("Entities"))])
        .refuses(&[400, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504]),
    Url::get("/api/v1/workflows/{workflow_id}/events", "The log of a run, as a stream or as a page")
        .takes(&[Param::number("after", "events behind this number"), LIMIT, VERSION, STREAM, LAST_ID])
        .answers(&[(200, Answer::EventsOr("EventPage")), (204, Answer::Empty)])
        .refuses(&[404, 422, 429, 500, 503]),
    Url::post("/api/v1/workflows/{workflow_id}/respond", "Answer a question of a run")
        .body("Response")
        .answers(&[(200, Answer::Json("Responded"))])
        .refuses(&[400, 404, 408, 409, 413, 415, 422, 503]),
    Url::get("/api/v1/workflows/{workflow_id}/artifacts/{digest}/{name}", "A file that a run made, as a download")
        .answers(&[(200, Answer::Text("application/octet-stream"))])
        .refuses(&[404, 503]),
    Url::post("/api/v1/conversations", "Make a conversation")
        .body("NewConversation")
        .answers(&[(201, Answer::Json("Conversation"))])
        .refuses(&[400, 408, 413, 415, 422, 503]),
    Url::get("/api/v1/conversations", "Conversations, last changed first, each with its last message")
        .takes(&[LIMIT, OFFSET])
        .answers(&[(200, Answer::List("Conversation"))])
        .refuses(&[422, 503]),
    Url::get("/api/v1/conversations/{id}", "A conversation with its messages")
        .answers(&[(200, Answer::Json("Conversation"))])
        .refuses(&[404, 503]),
    Url::delete("/api/v1/conversations/{id}", "Delete a conversation and all that is its own")
        .answers(&[(204, Answer::Empty)])
        .refuses(&[404, 409, 429, 503]),
    Url::get("/api/v1/approvals", "Open questions to humans over all runs, the longest waiting first")
        .takes(&[
            Param::query("workflow_id", "only of this run"),
            Param::query("conversation_id", "only of this conversation's runs"),
            Param::query("request_id", "only this one"),
            Param::query("request_type", "only of this type, as tool_approval"),
            LIMIT,
            OFFSET,
        ])
        .answers(&[(200, Answer::List("Approval"))])
        .refuses(&[422, 503]),
    Url::get("/api/v1/approvals/{request_id}", "An open question to a human; 409 names the run of one that is closed")
        .answers(&[(200, Answer::Json("Approval"))])
        .refuses(&[404, 409, 503]),
    Url::get("/api/v1/sessions", "What runs, waits or ended lately")
        .answers(&[(200, Answer::List("Session"))])
        .refuses(&[503]),
    Url::get("/api/v1/sessions/{id}", "One session").answers(&[(200, Answer::Json("Session"))]).refuses(&[404, 503]),
    Url::delete("/api/v1/sessions/{id}", "Cancel a run").answers(&[(204, Answer::Empty)]).refuses(&[404, 429, 503]),
    Url::get("/api/v1/history", "Finished executions, newest first")
        .takes(&[LIMIT, OFFSET, Param::query("before", "the cursor of a page; not beside offset")])
        .answers(&[(200, Answer::Pages("Execution"))])
        .refuses(&[422, 503]),
    Url::delete("/api/v1/history", "Forget every finished execution").answers(&[(204, Answer::Empty)]).refuses(&[503]),
    Url::get("/api/v1/history/{id}", "One finished execution")
        .answers(&[(200, Answer::Json("Execution"))])
        .refuses(&[404, 503]),
    Url::delete("/api/v1/history/{id}", "Forget one finished execution")
        .answers(&[(204, Answer::Empty)])
        .refuses(&[404, 409, 503]),
    Url::get("/api/v1/checkpoints", "Checkpoints of a workflow, newest first; none when its client declined them")
        .takes(&[WORKFLOW, LIMIT, Param::query("before", "the cursor of a page")])
        .answers(&[(200, Answer::Pages("Checkpoint"))])
        .refuses(&[404, 422, 500, 503]),
    Url::get("/api/v1/checkpoints/{id}", "One checkpoint, listed or not, with its steps")
        .answers(&[(200, Answer::Json("CheckpointWithSteps"))])
        .refuses(&[404, 500, 503]),
    Url::post("/api/v1/checkpoints/{id}/fork", "A new workflow from there")
        .answers(&[(201, Answer::Json("Fork"))])
        .refuses(&[404, 500, 503]),
    Url::post("/api/v1/checkpoints/{id}/resume", "Go on from there, watched or not; answers once the run goes on")
        .body("Resume")
        .answers(&[(202, Answer::Json("Accepted"))])
        .refuses(&[400, 404, 408, 413, 415, 422, 500, 503]),
    Url::get("/health", "How the parts are").answers(&[(200, Answer::Json("Health"))]),
    Url::get("/ready", "Whether work is taken").answers(&[(200, Answer::Json("Ready")), (503, Answer::Json("Ready"))]),
    Url::get("/livez", "Whether the process lives").answers(&[(200, Answer::Json("Alive"))]),
    Url::get("/readyz", "Whether work is taken").answers(&[(200, Answer::Json("Alive"))]).refuses(&[503]),
    Url::get("/metrics", "Figures in the OpenMetrics text format")
        .answers(&[(200, Answer::Text("application/openmetrics-text"))])
        .refuses(&[500]),
];
