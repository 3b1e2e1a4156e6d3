//! `chat`: a conversation in the terminal, turn by turn, in the data directory or through a server.
//!
//! Between two turns a line is a message or a command; while a turn asks something, a line is the answer. The turn is watched
//! meanwhile, for somebody else may answer first. Ctrl-C stops the turn and never the program; Ctrl-D and `/quit` leave.
//!
//! Absent on purpose: a line editor. The terminal's own is there, and in a pipe there is none.

use std::collections::VecDeque;
use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use clap::builder::PossibleValuesParser;
use fleet_actors::ids::ConversationId;
use fleet_actors::ports::ReasoningEffort;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::approvals::{approved, edited, rejected};
use super::failure::CommandError;
use super::fleet::{Fleet, Run, Seen};
use super::screen::{Form, Screen};
use super::terminal::{complain, harmless, say, stream, text};
use super::{Effort, Reach};
use crate::api::start::NewRun;
use crate::workflow::MODES;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentic-fleet chat
  agentic-fleet chat --mode parallel --server http://127.0.0.1:8000
  printf 'hello\\nand now in French\\n' | agentic-fleet chat

In it: /help, /mode NAME, /effort NAME, /new, /quit. Ctrl-C stops a turn, Ctrl-D leaves. An approval is answered in place: y, n, why not, or
the changed arguments as a JSON object. Without --server it takes the data directory for itself; runs that wait there go on.")]
pub(super) struct Chat {
    /// Go on in this conversation, or begin it under this id.
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Who works, and how.
    #[arg(long, value_parser = PossibleValuesParser::new(MODES))]
    mode: Option<String>,
    /// How much the model thinks.
    #[arg(long, value_enum)]
    reasoning_effort: Option<Effort>,
    /// Whether `checkpoints list` shows the checkpoints of its runs; else the settings say.
    #[arg(long, value_name = "BOOL")]
    enable_checkpointing: Option<bool>,
    #[command(flatten)]
    reach: Reach,
}

const HELP: &str =
    "/mode NAME     who works, and how: auto, delegated, sequential, parallel, handoff, discussion, fast_path
/effort NAME   how much the model thinks: minimal, medium, maximal, or config for what the settings say
/new           begin another conversation
/quit          leave, as Ctrl-D does; Ctrl-C stops a turn";

pub(super) async fn run(options: &Chat) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet chat")?.that_stays();
    let mut talk = Talk {
        fleet,
        conversation: options.conversation.clone().unwrap_or_else(ConversationId::generate),
        mode: options.mode.clone(),
        effort: options.reasoning_effort.map(Into::into),
        checkpointing: options.enable_checkpointing,
        lines: Lines::read().map_err(|error| CommandError::Failed(format!("interrupts cannot be taken: {error}")))?,
        failed: false,
    };
    complain(&format!("conversation {}; /help says what else there is", talk.conversation));
    loop {
        let line = match talk.lines.next("you> ").await {
            Line::Text(line) => line,
            Line::Interrupt => {
                complain("/quit or Ctrl-D leaves");
                continue;
            }
            Line::End => return Ok(i32::from(talk.failed)),
        };
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(0),
            command if command.starts_with('/') => talk.command(command),
            message => {
                // A turn that fails is told, and the conversation goes on.
                if let Err(error) = talk.turn(message).await {
                    complain(&error.to_string());
                    talk.failed = true;
                }
            }
        }
    }
}

struct Talk {
    fleet: Fleet,
    conversation: ConversationId,
    mode: Option<String>,
    effort: Option<ReasoningEffort>,
    checkpointing: Option<bool>,
    lines: Lines,
    /// The last turn had no answer; what a pipe's end answers with.
    failed: bool,
}

impl Talk {
    fn command(&mut self, line: &str) {
        let (name, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(name, rest)| (name, rest.trim()));
        match (name, rest) {
            ("/help", _) => complain(HELP),
            ("/new", _) => {
                self.conversation = ConversationId::generate();
                complain(&format!("conversation {}", self.conversation));
            }
            ("/mode", mode) if MODES.contains(&mode) => self.mode = Some(mode.to_owned()),
            ("/mode", _) => complain(&format!("one of {}", MODES.join(", "))),
            ("/effort", "minimal") => self.effort = Some(ReasoningEffort::Minimal),
            ("/effort", "medium") => self.effort = Some(ReasoningEffort::Medium),
            ("/effort", "maximal") => self.effort = Some(ReasoningEffort::Maximal),
            ("/effort", "config") => self.effort = None,
            ("/effort", _) => complain("one of minimal, medium, maximal, config"),
            _ => complain(&format!("there is no command {name}; /help lists them")),
        }
    }

    async fn turn(&mut self, message: &str) -> Result<(), CommandError> {
        let new = NewRun {
            message: message.to_owned(),
            conversation: Some(self.conversation.clone()),
            mode: self.mode.clone(),
            effort: self.effort,
            checkpointing: self.checkpointing,
            ..NewRun::default()
        };
        let mut run = self.fleet.start(new, Form::Verbose.deltas()).await?;
        let mut screen = Screen::new(Form::Verbose);
        let mut open = VecDeque::new();
        let mut stopping = false;
        self.failed = false;
        loop {
            let seen = tokio::select! {
                seen = run.next() => seen?,
                _ = self.lines.interrupts.recv() => {
                    screen.end_line();
                    if stopping {
                        return Err(run.left("left while it was being stopped"));
                    }
                    stopping = true;
                    open.clear();
                    run.cancel();
                    continue;
                }
                line = self.lines.from.recv(), if !open.is_empty() => {
                    screen.line_ended();
                    let Some(line) = line else { return Err(run.left("nobody is there to answer it")) };
                    if self.answered(&run, &open, line.trim()).await {
                        open.pop_front();
                    }
                    self.prompt(&mut screen, &mut open);
                    continue;
                }
            };
            let Seen::Event(event) = seen else {
                screen.end_line();
                return Err(run.left("the stream ended before the run did"));
            };
            match event["type"].as_str() {
                Some("orchestrator.message") if event["kind"] == "request" => {
                    if !stopping {
                        if open.is_empty() {
                            screen.end_line();
                        }
                        open.push_back(Question::of(&event["data"]));
                    }
                }
                Some("request.closed") => self.closed(&mut screen, &mut open, &event["data"]),
                _ => {
                    if let Some(status) = screen.show(&event) {
                        self.failed = status != "completed";
                        run.close().await;
                        return Ok(());
                    }
                }
            }
            self.prompt(&mut screen, &mut open);
        }
    }

    /// Asks the question that waits longest, unless that stands on the last line already.
    fn prompt(&self, screen: &mut Screen, open: &mut VecDeque<Question>) {
        let Some(question) = open.front_mut().filter(|_| !screen.in_line()) else { return };
        if !std::mem::replace(&mut question.told, true) {
            question.tell();
        }
        if self.lines.prompts {
            stream(question.prompt());
            screen.line_begun();
        }
    }

    /// Answers the question that waits longest with a line; whether it was taken.
    async fn answered(&self, run: &Run, open: &VecDeque<Question>, line: &str) -> bool {
        let Some(question) = open.front().filter(|_| !line.is_empty()) else { return false };
        match run.answer(&question.id, meant(&question.kind, line)).await {
            Ok(()) => true,
            Err(error) => {
                complain(&error.to_string());
                // Its end comes as an event, too, but a person need not be asked until then.
                error.to_string().starts_with("request_closed")
            }
        }
    }

    /// A question is over; one that still stands here was answered by somebody else, or by nobody.
    fn closed(&self, screen: &mut Screen, open: &mut VecDeque<Question>, data: &Value) {
        let id = text(data, "request_id");
        let Some(at) = open.iter().position(|question| question.id == id) else { return };
        if at == 0 {
            screen.end_line();
        }
        if open.remove(at).is_some_and(|question| question.told) {
            let by =
                if data["outcome"] == "expired" { "nobody answered it in time" } else { "it was answered elsewhere" };
            complain(by);
        }
    }
}

/// An open question of the turn.
struct Question {
    id: String,
    kind: String,
    request: Value,
    /// The person was told what is asked.
    told: bool,
}

impl Question {
    fn of(data: &Value) -> Self {
        let (id, kind, request) = (text(data, "request_id"), text(data, "request_type"), data["request"].clone());
        Self { id, kind, request, told: false }
    }

    fn tell(&self) {
        let (id, request) = (&self.id, &self.request);
        match self.kind.as_str() {
            "tool_approval" => {
                let (agent, tool) = (text(request, "agent"), text(request, "tool"));
                complain(&format!("{agent} wants to call {tool} (request {id}) with"));
                complain(&pretty(&request["arguments"]));
            }
            "plan_review" => {
                complain(&format!("the plan (request {id})"));
                complain(&pretty(request));
            }
            "user_input" => {
                say(&text(request, "question"));
                if let Some(options) = request["options"].as_array().filter(|options| !options.is_empty()) {
                    let options: Vec<_> = options.iter().filter_map(Value::as_str).map(harmless).collect();
                    say(&format!("({})", options.join(" | ")));
                }
            }
            _ => complain(&format!("{} (request {id})\n{}", self.kind, pretty(request))),
        }
    }

    fn prompt(&self) -> &'static str {
        match self.kind.as_str() {
            "tool_approval" => "allow it? y, n, why not, or other arguments as JSON> ",
            "plan_review" => "go on with this plan? y, n, why not, or a changed plan as JSON> ",
            _ => "answer> ",
        }
    }
}

fn pretty(value: &Value) -> String {
    let shown = serde_json::to_string_pretty(value).unwrap_or_default();
    harmless(&shown).into_owned()
}

/// What a typed line means as an answer.
fn meant(kind: &str, line: &str) -> Value {
    if !matches!(kind, "tool_approval" | "plan_review") {
        return serde_json::from_str(line).unwrap_or_else(|_| json!(line));
    }
    match line.to_lowercase().as_str() {
        "y" | "yes" | "ok" => approved(),
        "n" | "no" => rejected(""),
        _ => match serde_json::from_str(line) {
            Ok(changed @ Value::Object(_)) => edited(kind, &changed),
            Ok(_) | Err(_) => rejected(line),
        },
    }
}

enum Line {
    Text(String),
    Interrupt,
    End,
}

/// Lines of standard input, read by a thread of their own so that waiting for one can be given up.
struct Lines {
    from: mpsc::Receiver<String>,
    prompts: bool,
    /// One listener for the whole conversation: none that comes while something is shown is lost.
    interrupts: Signal,
}

impl Lines {
    fn read() -> std::io::Result<Self> {
        let interrupts = signal(SignalKind::interrupt())?;
        let (to, from) = mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { return };
                if to.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { from, prompts: std::io::stdin().is_terminal(), interrupts })
    }

    async fn next(&mut self, prompt: &str) -> Line {
        if self.prompts {
            stream(prompt);
        }
        tokio::select! {
            line = self.from.recv() => line.map_or(Line::End, Line::Text),
            _ = self.interrupts.recv() => {
                say("");
                Line::Interrupt
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_line_is_a_yes_a_no_with_a_reason_or_what_is_to_be_changed() {
        assert_eq!(meant("tool_approval", "Y"), json!({ "decision": "approve" }));
        assert_eq!(meant("tool_approval", "no"), json!({ "decision": "reject" }));
        assert_eq!(meant("tool_approval", "too risky"), json!({ "decision": "reject", "reason": "too risky" }));
        let edit = json!({ "decision": "edit", "arguments": { "code": "1" } });
        assert_eq!(meant("tool_approval", r#"{"code": "1"}"#), edit);
        assert_eq!(meant("plan_review", r#"{"mode": "parallel"}"#)["plan"], json!({ "mode": "parallel" }));
        assert_eq!(meant("user_input", "Paris"), json!("Paris"));
        assert_eq!(meant("user_input", "[1, 2]"), json!([1, 2]));
    }
}
