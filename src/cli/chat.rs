//! `chat`: a conversation in the terminal, turn by turn, in the data directory or through a server.
//!
//! Between two turns a line is a message or a command; while a turn asks something, a line is the answer. The turn is watched
//! meanwhile, for somebody else may answer first. Ctrl-C stops the turn and never the program; Ctrl-D and `/quit` leave.
//!
//! Absent on purpose: a line editor. The terminal's own is there, and in a pipe there is none.

mod question;

use std::collections::VecDeque;
use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use clap::builder::PossibleValuesParser;
use fleet_actors::ids::ConversationId;
use fleet_actors::ports::ReasoningEffort;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::question::Question;
use super::failure::CommandError;
use super::fleet::{Fleet, Run, Seen};
use super::screen::{Form, Screen};
use super::terminal::{complain, say, stream, text};
use super::{Effort, Reach};
use crate::api::start::NewRun;
use crate::workflow::MODES;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentic-fleet chat
  agentic-fleet chat --mode parallel --server http://127.0.0.1:8000
  printf 'hello\\nand now in French\\n' | agentic-fleet chat

In it: /help, /mode NAME, /effort NAME, /new, /quit. Ctrl-C stops a turn, Ctrl-D leaves. An approval is answered in place: y, n, n and
why not, or the changed arguments as a JSON object; /quit and Ctrl-D leave it open. Without --server it takes the data
directory for itself; runs that wait there go on.")]
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
        refused: false,
    };
    complain(&format!("conversation {}; /help says what else there is", talk.conversation));
    loop {
        let line = match talk.lines.next("you> ").await {
            Line::Text(line) => line,
            Line::Interrupt => {
                complain("/quit or Ctrl-D leaves");
                continue;
            }
            Line::Refused(why) => {
                talk.refuse(&why);
                continue;
            }
            Line::End => return Ok(i32::from(talk.failed || talk.refused)),
        };
        match line.trim() {
            "" => {}
            line if leaves(line) => return Ok(0),
            command if command.starts_with('/') => talk.command(command),
            message => {
                match talk.turn(message).await {
                    Ok(Turn::Over) => {}
                    Ok(Turn::Left(how)) => {
                        complain(&how.to_string());
                        return Ok(0);
                    }
                    // A turn that fails is told, and the conversation goes on.
                    Err(error) => {
                        complain(&error.to_string());
                        talk.failed = true;
                        talk.refused |= matches!(error, CommandError::Usage(_));
                    }
                }
            }
        }
    }
}

/// Whether a line ends the conversation, at a question too.
fn leaves(line: &str) -> bool {
    matches!(line, "/quit" | "/exit")
}

/// How a turn stands when it needs no more lines.
enum Turn {
    Over,
    /// The person left; its question stays open. The text says how to come back.
    Left(CommandError),
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
    /// A line was no message, so that no turn came of it; no turn after it makes up for that.
    refused: bool,
}

impl Talk {
    fn refuse(&mut self, why: &str) {
        complain(why);
        self.refused = true;
    }

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

    async fn turn(&mut self, message: &str) -> Result<Turn, CommandError> {
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
                    let Some(line) = line else { return Err(left_open(&run, &open, "nobody is there to answer it")) };
                    match line {
                        Err(why) => self.refuse(&why),
                        Ok(line) if leaves(line.trim()) => {
                            return Ok(Turn::Left(left_open(&run, &open, "left")));
                        }
                        Ok(line) => {
                            if self.answered(&run, &open, line.trim()).await {
                                open.pop_front();
                            }
                        }
                    }
                    self.prompt(&mut screen, &mut open);
                    continue;
                }
            };
            let event = match seen {
                Seen::Event(event) => event,
                Seen::Rests(error) => {
                    screen.end_line();
                    return Err(error.into());
                }
                Seen::Parked | Seen::End => {
                    screen.end_line();
                    return Err(run.left("the stream ended before the run did"));
                }
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
                        return Ok(Turn::Over);
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
        let answer = match question.answer(line) {
            Ok(answer) => answer,
            Err(unclear) => {
                complain(&unclear);
                return false;
            }
        };
        match run.answer(&question.id, answer).await {
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

/// The end of following a run whose questions stay open, with the ways to answer and to go on.
fn left_open(run: &Run, open: &VecDeque<Question>, why: &str) -> CommandError {
    let questions: Vec<_> = open.iter().map(|question| question.id.as_str()).collect();
    let answer = format!("agentic-fleet approvals answer {}{}", questions.join(" or "), run.place());
    run.left(&format!("{why}; it stays open: {answer}"))
}

enum Line {
    Text(String),
    /// It cannot be read; the text says why.
    Refused(String),
    Interrupt,
    End,
}

/// Lines of standard input, read by a thread of their own so that waiting for one can be given up.
struct Lines {
    /// A line, or why it cannot be read.
    from: mpsc::Receiver<Result<String, String>>,
    prompts: bool,
    /// One listener for the whole conversation: none that comes while something is shown is lost.
    interrupts: Signal,
}

impl Lines {
    fn read() -> std::io::Result<Self> {
        let interrupts = signal(SignalKind::interrupt())?;
        let (to, from) = mpsc::channel(1);
        std::thread::spawn(move || {
            for (number, line) in (1_u64..).zip(std::io::stdin().lock().split(b'\n')) {
                let broken = line.is_err();
                let line = line.map_err(|error| format!("standard input cannot be read: {error}"));
                let line = line.and_then(|line| {
                    String::from_utf8(line).map_err(|_| format!("line {number} of standard input is not UTF-8"))
                });
                if to.blocking_send(line).is_err() || broken {
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
            line = self.from.recv() => line.map_or(Line::End, |line| line.map_or_else(Line::Refused, Line::Text)),
            _ = self.interrupts.recv() => {
                say("");
                Line::Interrupt
            }
        }
    }
}
