//! Random workflows: a tree of steps, drawn from a seed and pinned as the run's config, so that every life runs the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Audience;
use crate::journal::Context;
use crate::ports::{ChatMessage, LocalFuture, ModelRequest, OutputForm, Role, RunOutput, TaskInput};
use crate::turn::{HumanRequest, StepResult, ToolAsk, Turn};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, seeded, good enough to draw faults.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Node {
    Model(String),
    Tool(String),
    /// A tool whose effect must not happen twice.
    Ambiguous(String),
    Emit(String),
    Sleep(u64),
    Ask(String),
    Now,
    Scope(Vec<Node>),
    Parallel(Vec<Vec<Node>>),
    Race(Vec<Node>, Vec<Node>),
    Timeout(u64, Vec<Node>),
}

pub(super) fn draw(dice: &mut Dice) -> Vec<Node> {
    let mut label = 0;
    nodes(dice, &mut label, 3)
}

fn nodes(dice: &mut Dice, label: &mut u32, depth: u32) -> Vec<Node> {
    let count = 1 + dice.below(4);
    (0..count).map(|_| node(dice, label, depth)).collect()
}

fn node(dice: &mut Dice, label: &mut u32, depth: u32) -> Node {
    *label += 1;
    let name = format!("s{label}");
    match dice.below(if depth == 0 { 10 } else { 16 }) {
        0..=3 => Node::Model(name),
        4 | 5 if label.is_multiple_of(3) => Node::Ambiguous(name),
        4 | 5 => Node::Tool(name),
        6 | 7 => Node::Emit(name),
        8 => Node::Sleep(1 + dice.below(60)),
        9 => {
            if dice.percent(40) {
                Node::Ask(name)
            } else {
                Node::Now
            }
        }
        10 => Node::Scope(nodes(dice, label, depth - 1)),
        11..=13 => {
            let branches = 1 + dice.below(3);
            Node::Parallel((0..branches).map(|_| nodes(dice, label, depth - 1)).collect())
        }
        14 => Node::Race(nodes(dice, label, depth - 1), nodes(dice, label, depth - 1)),
        _ => Node::Timeout(5 + dice.below(80), nodes(dice, label, depth - 1)),
    }
}

/// Whether the result cannot depend on how long anything took.
pub(super) fn timing_free(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| match node {
        Node::Model(_) | Node::Tool(_) | Node::Emit(_) | Node::Sleep(_) => true,
        Node::Ambiguous(_) | Node::Ask(_) | Node::Now | Node::Race(..) | Node::Timeout(..) => false,
        Node::Scope(nodes) => timing_free(nodes),
        Node::Parallel(branches) => branches.iter().all(|nodes| timing_free(nodes)),
    })
}

pub(super) fn workflow<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let nodes = turn.pinned::<Vec<Node>>()?;
        let text = interpret(turn, &nodes).await?;
        turn.emit(&serde_json::json!({ "answer": text }));
        Ok(RunOutput { text, ..RunOutput::default() })
    })
}

fn interpret<'a>(turn: &'a mut Turn, nodes: &'a [Node]) -> LocalFuture<'a, StepResult<String>> {
    Box::pin(async move {
        let mut said = String::new();
        for node in nodes {
            said.push_str(&one(turn, node, &said).await?);
            said.push(';');
        }
        Ok(said)
    })
}

async fn one(turn: &mut Turn, node: &Node, before: &str) -> StepResult<String> {
    match node {
        Node::Model(name) => {
            let context = Context::of([
                ChatMessage::new(Role::System, name.clone()),
                ChatMessage::new(Role::User, before.to_owned()),
            ]);
            let request = ModelRequest {
                model: "m".into(),
                agent: None,
                audience: Audience::User,
                context,
                tools: std::sync::Arc::from([]),
                output: OutputForm::Text,
                temperature: None,
                max_output_tokens: None,
            };
            // A failed call is something a workflow may live with.
            Ok(turn.model("model", request).await.map_or_else(|failure| failure.code.to_string(), |reply| reply.text))
        }
        Node::Tool(name) | Node::Ambiguous(name) => {
            let tool = if matches!(node, Node::Ambiguous(_)) { "ambiguous" } else { name };
            let arguments = serde_json::json!({ "name": name, "before": before });
            Ok(turn
                .tool("tool", ToolAsk::new(tool, arguments))
                .await
                .map_or_else(|failure| failure.code.to_string(), |output| output.text))
        }
        Node::Emit(name) => {
            turn.emit(&serde_json::json!({ "said": name, "before": before }));
            Ok(name.clone())
        }
        Node::Sleep(ms) => {
            turn.sleep("sleep", Duration::from_millis(*ms)).await;
            Ok("slept".to_owned())
        }
        Node::Ask(name) => {
            let request = serde_json::json!({ "name": name });
            let expires_in = Duration::from_millis(400);
            let ask = HumanRequest { request_type: "user_input".into(), request, answer_schema: None, expires_in };
            Ok(format!("{:?}", turn.ask_human("ask", ask).await.answer))
        }
        Node::Now => {
            let (now, random) = (turn.now(), turn.random());
            turn.emit(&serde_json::json!({ "now": now, "random": random }));
            Ok(String::new())
        }
        Node::Scope(nodes) => turn.scope("scope", async |turn| interpret(turn, nodes).await).await,
        Node::Parallel(branches) => {
            let results =
                turn.parallel("parallel", 2, branches.clone(), async |turn, nodes| interpret(turn, &nodes).await);
            let said: Vec<String> =
                results.await.into_iter().map(|said| said.unwrap_or_else(|failure| failure.code.to_string())).collect();
            Ok(said.join("|"))
        }
        Node::Race(a, b) => {
            let race = turn.race("race", async |turn| interpret(turn, a).await, async |turn| interpret(turn, b).await);
            race.await
        }
        Node::Timeout(ms, nodes) => {
            let limit = Duration::from_millis(*ms);
            let result = turn.timeout("timeout", limit, async |turn| interpret(turn, nodes).await).await;
            Ok(result.unwrap_or_else(|failure| failure.code.to_string()))
        }
    }
}
