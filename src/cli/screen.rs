//! Shows a run in the terminal, as `run`, `run --server` and `checkpoints resume` all do: the terminal is one more client
//! of version 2, whether its events come from this process or from a server.

use std::io::IsTerminal as _;

use serde_json::{Value, json};

use super::failure::CommandError;
use super::fleet::{Run, Seen, left};
use super::terminal::{complain, harmless, say, stream, text};
use crate::api::wire::Deltas;

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The text as it comes.
    Text,
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
            Self::Text => Deltas::Shown,
            Self::Json => Deltas::Hidden,
        }
    }
}

/// Follows a run to its end; the exit code is 0 if it completed. An interrupt cancels it, a second one leaves it.
pub(super) async fn follow(mut run: Run, form: Form) -> Result<i32, CommandError> {
    let mut screen = Screen::new(form);
    let mut interrupted = false;
    loop {
        let seen = tokio::select! {
            seen = run.next() => seen?,
            _ = tokio::signal::ctrl_c() => {
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
                    if form == Form::Json {
                        say(&result(&run.result().await?).to_string());
                    } else if status == "completed" && std::io::stdout().is_terminal() {
                        run.conversation().inspect(|id| complain(&format!("to go on: --conversation {id}")));
                    }
                    run.close().await;
                    return Ok(i32::from(status != "completed"));
                }
            }
            Seen::Parked => {
                screen.end_line();
                let id = run.workflow().to_owned();
                run.close().await;
                let text = "it waits for an answer or a timer, and goes on under `agentic-fleet serve`";
                return Err(CommandError::Failed(text.to_owned()).about(&id));
            }
            Seen::End => {
                screen.end_line();
                return Err(left(run.workflow(), "the stream ended before the run did"));
            }
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

/// What stands on the screen.
struct Screen {
    form: Form,
    /// The text that is shown and valid.
    shown: String,
    /// Something stands on the last line.
    in_line: bool,
}

impl Screen {
    fn new(form: Form) -> Self {
        Self { form, shown: String::new(), in_line: false }
    }

    /// Shows an event; the run's status if it was the last one.
    fn show(&mut self, event: &Value) -> Option<String> {
        match event["type"].as_str().unwrap_or_default() {
            "response.delta" => self.write(event["delta"].as_str().unwrap_or_default()),
            "response.completed" => {
                self.answer(event["message"].as_str().unwrap_or_default());
                if event["data"]["truncated"] == true {
                    self.end_line();
                    complain(&format!("note: the model stopped early: {}", text(&event["data"], "finish_reason")));
                }
            }
            "step.voided" if !self.shown.is_empty() => {
                self.end_line();
                self.note("[the text above is void]");
                self.shown.clear();
            }
            "orchestrator.message" if event["kind"] == "request" => {
                self.end_line();
                let (id, request) = (text(&event["data"], "request_id"), text(&event["data"], "request"));
                complain(&format!("{} (request {id}): {request}", text(event, "message")));
            }
            "error" => {
                self.end_line();
                let retry = event["data"]["retry_after"].as_u64().map(|s| format!(" (try again in {s} s)"));
                let (code, error) = (text(&event["data"], "code"), text(event, "error"));
                complain(&format!("error: {code}: {error}{}", retry.unwrap_or_default()));
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
        if self.form == Form::Text && !piece.is_empty() {
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
        if self.form == Form::Text {
            say(line);
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.in_line) {
            say("");
        }
    }
}
