//! Shows a run in the terminal, as `run`, `run --server` and `checkpoints resume` all do: the terminal is one more client
//! of version 2, whether its events come from this process or from a server.

use std::io::IsTerminal as _;
use std::pin::pin;

use fleet_actors::ports::Rest;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::CommandError;
use super::fleet::{Run, Seen};
use super::terminal::{complain, harmless, preview, say, stream, text};
use crate::api::wire::Deltas;

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The text as it comes.
    Text,
    /// The text as it comes; what else happens is told on standard error.
    Verbose,
    /// One JSON object at the end.
    Json,
}

impl Form {
    pub fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Whether text is needed as it comes.
    pub fn deltas(self) -> Deltas {
        match self {
            Self::Text | Self::Verbose => Deltas::Shown,
            Self::Json => Deltas::Hidden,
        }
    }
}

/// Starts a run and follows it to its end; the exit code is 0 if it completed. An interrupt cancels it, a second one leaves
/// it.
pub(super) async fn follow(
    start: impl Future<Output = Result<Run, CommandError>>,
    form: Form,
) -> Result<i32, CommandError> {
    // Before there is a run: an interrupt while it begins would otherwise end this process and leave the run.
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| CommandError::Failed(format!("interrupts cannot be taken: {error}")))?;
    let mut interrupted = false;
    let mut start = pin!(start);
    let mut run = loop {
        tokio::select! {
            run = &mut start => break run?,
            _ = interrupts.recv() => {
                if interrupted {
                    return Err(CommandError::Failed("left while the run was being started".to_owned()));
                }
                interrupted = true;
            }
        }
    };
    if interrupted {
        run.cancel();
    }
    let mut screen = Screen::new(form);
    let followed = watch(&mut run, &mut screen, &mut interrupts, interrupted).await;
    screen.end_line();
    let status = match followed {
        Ok(Followed::Over(status)) => status,
        Ok(Followed::Parked) => {
            let id = run.workflow().to_owned();
            if form == Form::Json {
                say(&waiting(&run, screen.asked.as_deref()).to_string());
            }
            run.close().await;
            let text = match screen.asked {
                Some(request) => format!(
                    "it waits for an answer: agentic-fleet approvals answer {request}; it goes on under `agentic-fleet serve`"
                ),
                None => "it waits for an answer or a timer, and goes on under `agentic-fleet serve`".to_owned(),
            };
            return Err(CommandError::Failed(text).about(&id));
        }
        Err(error) => {
            if form == Form::Json {
                say(&unended(&run, screen.failure.as_deref(), &error).to_string());
            }
            return Err(error);
        }
    };
    match form {
        Form::Json => {
            let entry = run.result().await;
            let entry = entry.inspect_err(|error| say(&unended(&run, None, error).to_string()))?;
            say(&result(&entry).to_string());
        }
        Form::Verbose => tell_costs(&run.result().await?),
        Form::Text => {}
    }
    if form != Form::Json && status == "completed" && std::io::stdout().is_terminal() {
        run.conversation().inspect(|id| complain(&format!("to go on: --conversation {id}")));
    }
    run.close().await;
    Ok(i32::from(status != "completed"))
}

/// How far a run could be followed.
enum Followed {
    /// To its end, with its status.
    Over(String),
    /// Until it waits, and nobody here waits with it.
    Parked,
}

/// Shows what a run does.
async fn watch(
    run: &mut Run,
    screen: &mut Screen,
    interrupts: &mut Signal,
    mut interrupted: bool,
) -> Result<Followed, CommandError> {
    loop {
        let seen = tokio::select! {
            seen = run.next() => seen?,
            _ = interrupts.recv() => {
                if interrupted {
                    return Err(CommandError::Failed(format!("{}: left while it was being cancelled", run.workflow())));
                }
                interrupted = true;
                run.cancel();
                continue;
            }
        };
        match seen {
            Seen::Event(event) => {
                if let Some(status) = screen.show(&event) {
                    return Ok(Followed::Over(status));
                }
            }
            Seen::Parked => return Ok(Followed::Parked),
            Seen::Rests(error) => {
                screen.failure = Some(error.code.to_string());
                return Err(error.into());
            }
            Seen::End => return Err(run.left("the stream ended before the run did")),
        }
    }
}

/// What programs are told of a run that is over.
fn result(entry: &Value) -> Value {
    json!({
        "execution_id": entry["workflow_id"],
        "conversation_id": entry["conversation_id"],
        "status": entry["status"],
        "result": entry["result"],
        "metadata": entry["metadata"],
        "error": entry["error"],
    })
}

/// The same of one that has no entry of history, or whose entry cannot be had.
fn without_entry(run: &Run, status: &str, error: &Value) -> Value {
    let entry = json!({
        "workflow_id": run.workflow(),
        "conversation_id": run.conversation(),
        "status": status,
        "error": error,
    });
    result(&entry)
}

/// Of one that waits.
fn waiting(run: &Run, request: Option<&str>) -> Value {
    let mut told = without_entry(run, "parked", &Value::Null);
    told["request_id"] = request.into();
    told
}

/// Of one whose end was not seen. What nobody can take up as it is has failed, as `GET /sessions` has it; all else was
/// interrupted, here at least.
fn unended(run: &Run, code: Option<&str>, error: &CommandError) -> Value {
    let interrupted = Rest::Interrupted.code();
    let code = code.unwrap_or(interrupted);
    let status = if Rest::FAILURES.map(Rest::code).contains(&code) || code == "replay_diverged" {
        "failed"
    } else {
        interrupted
    };
    without_entry(run, status, &json!({ "code": code, "message": error.to_string() }))
}

/// What a run cost, by agent.
pub(super) fn tell_costs(entry: &Value) {
    let line = |name: &str, part: &Value| {
        let count = |field: &str| part[field].as_u64().unwrap_or_default();
        let tokens = |field: &str| part["usage"][field].as_u64().unwrap_or_default();
        let cost = part["cost"].as_f64().map(|cost| format!(", ${cost:.6}")).unwrap_or_default();
        complain(&format!(
            "· {name}: {} model calls, {} tool calls, {} tokens in, {} out{cost}",
            count("model_calls"),
            count("tool_calls"),
            tokens("input_tokens"),
            tokens("output_tokens"),
        ));
    };
    for (agent, part) in entry["by_agent"].as_object().into_iter().flatten() {
        line(&harmless(agent), part);
    }
    line("all", entry);
}

/// What a phase, an agent or a tool did, on one line; nothing for what is no news.
pub(super) fn news(event: &Value) -> Option<String> {
    let (agent, message) = (text(event, "agent_id"), preview(event["message"].as_str().unwrap_or_default(), 100));
    let data = &event["data"];
    match event["type"].as_str()? {
        "orchestrator.thought" => Some(format!("{}: {message}", text(event, "kind"))),
        "orchestrator.message" if event["kind"] != "request" => Some(message),
        "agent.start" => Some(format!("{agent} begins")),
        "agent.complete" => Some(format!("{agent} {message}")),
        "agent.message" if data["kind"] == "tool_call" => {
            let (tool, outcome) = (text(data, "tool"), text(data, "outcome"));
            let arguments = preview(data["arguments_preview"].as_str().unwrap_or_default(), 60);
            let why = preview(data["degraded"].as_str().unwrap_or_default(), 100);
            let why = if why.is_empty() { why } else { format!(" ({why})") };
            Some(format!("{agent} called {tool}({arguments}): {outcome}{why} after {} ms", text(data, "duration_ms")))
        }
        "agent.message" => Some(format!("{agent}: {message}")),
        "step.failed" => Some(format!("{} failed: {}", text(event, "step"), text(event, "error"))),
        _ => None,
    }
}

/// What stands on the screen.
pub(super) struct Screen {
    form: Form,
    /// The text that is shown and valid.
    shown: String,
    /// The step that wrote the last of it.
    writing: String,
    /// Something stands on the last line.
    in_line: bool,
    /// The question that was asked last.
    asked: Option<String>,
    /// The code of the error that was told last.
    failure: Option<String>,
}

impl Screen {
    pub fn new(form: Form) -> Self {
        Self { form, shown: String::new(), writing: String::new(), in_line: false, asked: None, failure: None }
    }

    /// Shows an event; the run's status if it was the last one.
    pub fn show(&mut self, event: &Value) -> Option<String> {
        if self.form == Form::Verbose
            && let Some(line) = news(event)
        {
            self.end_line();
            complain(&format!("· {line}"));
        }
        match event["type"].as_str().unwrap_or_default() {
            "response.delta" => {
                self.writing = text(event, "step");
                self.write(event["delta"].as_str().unwrap_or_default());
            }
            "response.completed" => {
                self.answer(event["message"].as_str().unwrap_or_default());
                if event["data"]["truncated"] == true {
                    self.end_line();
                    complain(&format!("note: the model stopped early: {}", text(&event["data"], "finish_reason")));
                }
            }
            // A phase that was late is voided as well, and takes nothing from the answer.
            "step.voided" if !self.shown.is_empty() && text(event, "step") == self.writing => {
                self.end_line();
                self.note("[the text above is void]");
                self.shown.clear();
            }
            "orchestrator.message" if event["kind"] == "request" => {
                self.end_line();
                let (id, request) = (text(&event["data"], "request_id"), text(&event["data"], "request"));
                complain(&format!("{} (request {id}): {request}", text(event, "message")));
                self.asked = Some(id);
            }
            "request.closed" => {
                // One that a log tells of again would look as if it were still open.
                self.end_line();
                let id = text(&event["data"], "request_id");
                complain(&format!("request {id}: {}", text(&event["data"], "outcome")));
                self.asked.take_if(|asked| *asked == id);
            }
            "error" => {
                self.end_line();
                let retry = event["data"]["retry_after"].as_u64().map(|s| format!(" (try again in {s} s)"));
                let (code, error) = (text(&event["data"], "code"), text(event, "error"));
                complain(&format!("error: {code}: {error}{}", retry.unwrap_or_default()));
                self.failure = Some(code);
            }
            "cancelled" => {
                self.end_line();
                complain(&text(event, "message"));
            }
            "done" => {
                self.end_line();
                return Some(text(event, "status"));
            }
            _ => {}
        }
        None
    }

    fn write(&mut self, piece: &str) {
        if self.form != Form::Json && !piece.is_empty() {
            stream(&harmless(piece));
            self.in_line = !piece.ends_with('\n');
            self.shown.push_str(piece);
        }
    }

    /// The final answer, unless it is what was streamed.
    fn answer(&mut self, message: &str) {
        if !self.shown.trim_end().ends_with(message.trim_end()) {
            self.end_line();
            self.write(message);
        }
    }

    fn note(&self, line: &str) {
        if self.form != Form::Json {
            say(line);
        }
    }

    /// Something stands on the last line: text, or a question to the person.
    pub fn in_line(&self) -> bool {
        self.in_line
    }

    /// Something was written there without a line feed, as a prompt is.
    pub fn line_begun(&mut self) {
        self.in_line = true;
    }

    /// The person typed the line feed.
    pub fn line_ended(&mut self) {
        self.in_line = false;
    }

    pub fn end_line(&mut self) {
        if std::mem::take(&mut self.in_line) {
            say("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voided_step_takes_back_its_own_text_alone() {
        let mut screen = Screen::new(Form::Text);
        screen.show(&json!({ "type": "response.delta", "step": "execution#0/model#0", "delta": "the sea" }));
        screen.show(&json!({ "type": "step.voided", "step": "phase#2/progress#0", "reason": "lost the race" }));
        assert_eq!(screen.shown, "the sea");
        screen.show(&json!({ "type": "step.voided", "step": "execution#0/model#0", "reason": "restart" }));
        assert_eq!(screen.shown, "");
    }
}
