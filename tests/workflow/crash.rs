//! A process that dies at any record: what was paid for is not paid for again, and the answer is the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_actors::event::{Audience, RunOutcome, StepKind};
use fleet_actors::ids::{Epoch, Position, Timestamp};
use fleet_actors::journal::{Context, Past, Positioned, Record};
use fleet_actors::ports::{ChatMessage, LocalFuture, ModelRequest, OutputForm, Role, RunOutput, TaskInput};
use fleet_actors::testing::script::{Reply, Script};
use fleet_actors::turn::{StepResult, Turn};

use crate::support::{MODES, config_with_tools, with_tools};

/// Model and tool steps among these records that have a result.
fn paid(records: &[Positioned]) -> usize {
    records.iter().filter(|entry| matches!(entry.record, Record::StepCompleted { .. })).count()
}

#[test]
fn a_run_with_tools_and_an_approval_survives_a_death_at_every_record_in_every_mode() {
    let mut boundaries = 0;
    for mode in MODES {
        let ran = with_tools(mode, &config_with_tools()).run();
        assert_eq!(ran.outcome(), RunOutcome::Completed, "{mode}: {:?}", ran.history.error);
        let tools: Vec<_> = ran.tool_calls.iter().map(|call| call.name.to_string()).collect();
        assert_eq!(tools, ["search", "python"], "{mode} calls two tools, one of them approved");
        let all = ran.model_calls.len() + ran.tool_calls.len();
        assert_eq!(paid(&ran.records), all, "{mode}: each call is a step with a result");
        let mut keys = BTreeMap::new();
        for call in &ran.tool_calls {
            keys.insert(call.name.clone(), call.idempotency_key.clone());
        }
        for records in 0..=ran.records.len() {
            let again = ran.crashed_after(records);
            let calls = again.model_calls.len() + again.tool_calls.len();
            let done = paid(&ran.records[..records]);
            assert_eq!(calls, all - done, "{mode}: died after {records} records, {done} calls had a result");
            assert_eq!(
                again.history.status,
                RunOutcome::Completed,
                "{mode} after {records}: {:?}",
                again.history.error
            );
            let text =
                |history: &fleet_actors::ports::HistoryRow| history.result.as_ref().map(|result| result.text.clone());
            assert_eq!(text(&again.history), text(&ran.history), "{mode}: died after {records} records");
            for call in &again.tool_calls {
                assert_eq!(
                    keys.get(&call.name),
                    Some(&call.idempotency_key),
                    "{mode}: {} under another key",
                    call.name
                );
            }
            boundaries += 1;
        }
        ran.replay();
    }
    println!("{boundaries} boundaries");
    assert!(boundaries > 200, "only {boundaries} boundaries were tried");
}

#[test]
fn a_process_that_was_down_for_longer_than_anything_may_take_takes_no_time_from_a_phase_an_agent_or_a_tool() {
    let (mut boundaries, mut within) = (0, 0);
    for mode in MODES {
        let ran = with_tools(mode, &config_with_tools()).run();
        let moments = |events: &[&serde_json::Value]| {
            events.iter().filter(|event| event["warning"].is_string()).map(|event| (*event).clone()).collect::<Vec<_>>()
        };
        let told = moments(&ran.emitted().collect::<Vec<_>>());
        for records in 0..=ran.records.len() {
            let again = ran.down_after(records, Duration::from_secs(3_600));
            let text =
                |history: &fleet_actors::ports::HistoryRow| history.result.as_ref().map(|result| result.text.clone());
            assert_eq!(text(&again.history), text(&ran.history), "{mode}: down after {records} records");
            let calls = again.model_calls.len() + again.tool_calls.len();
            let all = ran.model_calls.len() + ran.tool_calls.len();
            assert_eq!(calls, all - paid(&ran.records[..records]), "{mode}: down after {records} records");
            assert_eq!(moments(&again.emitted().collect::<Vec<_>>()), told, "{mode}: down after {records} records");
            boundaries += 1;
            // A deadline was set and what it bounds was not over.
            let open =
                |is: fn(&Record) -> bool| ran.records[..records].iter().filter(|entry| is(&entry.record)).count();
            let deadlines = open(|record| matches!(record, Record::TimerSet { .. }));
            within += usize::from(deadlines > open(|record| matches!(record, Record::RaceDecided { .. })));
        }
    }
    println!("{boundaries} boundaries, {within} of them within a deadline");
    assert!(within > 50, "only {within} boundaries were within a deadline");
}

/// Sleeps for an hour, then has a minute for a call that takes 50 s.
fn sleeps_and_calls<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        turn.sleep("sleep", Duration::from_secs(3_600)).await;
        let request = ModelRequest {
            model: "m".into(),
            agent: None,
            audience: Audience::User,
            context: Context::default().with(ChatMessage::new(Role::User, "go")),
            tools: Arc::from([]),
            output: OutputForm::Text,
            temperature: None,
            max_output_tokens: None,
        };
        let minute = Duration::from_secs(60);
        let reply = turn.timeout("deadline", minute, async |turn| turn.model("model", request.clone()).await).await?;
        Ok(RunOutput { text: reply.text, ..RunOutput::default() })
    })
}

#[test]
fn a_sleep_ends_at_its_hour_although_nobody_was_up_and_a_call_that_is_made_anew_has_its_time_anew() {
    let script = Script::new(sleeps_and_calls, "go", serde_json::json!({}));
    let ran = script.model(|_| Reply::from("so").after(Duration::from_secs(50))).run();
    assert_eq!((ran.outcome(), ran.took), (RunOutcome::Completed, Duration::from_secs(3_650)));
    let behind = |found: fn(&Record) -> bool| ran.records.iter().position(|entry| found(&entry.record)).unwrap() + 1;
    // When the run was over, after its last record before the process died.
    let took = |records: usize, down: u64| {
        let again = ran.down_after(records, Duration::from_secs(down));
        assert_eq!(again.history.status, RunOutcome::Completed, "{:?}", again.history.error);
        let last = ran.records[..records].iter().rev().find_map(|entry| entry.record.at()).unwrap();
        again.history.completed_at.since(last).as_secs()
    };
    let asleep = behind(|record| matches!(record, Record::TimerSet { .. }));
    assert_eq!([took(asleep, 600), took(asleep, 7_200)], [3_650, 7_250]);
    let calling = behind(|record| matches!(record, Record::StepStarted { .. }));
    assert_eq!([took(calling, 0), took(calling, 55), took(calling, 7_200)], [50, 105, 7_250]);
}

#[test]
fn what_a_run_waits_parked_is_of_its_life_and_what_a_death_or_a_drain_took_of_it_is_not() {
    let at = |second: i64| Timestamp(1_000 * second);
    let records = [
        Record::Began { at: at(0), owner: 1 },
        Record::StepVoided { at: at(10), attempt: 1, reason: "restarted".into() },
        // It died some time after.
        Record::Began { at: at(50), owner: 1 },
        Record::Parked { at: at(60), drained: false },
        Record::Began { at: at(1_060), owner: 1 },
        Record::Parked { at: at(1_070), drained: true },
        Record::Began { at: at(1_073), owner: 1 },
    ];
    let mut journal: Vec<Positioned> = Vec::new();
    let mut lost = Vec::new();
    for (n, record) in (1..).zip(records) {
        // What is voided has begun.
        if let Record::StepVoided { at, .. } = &record {
            let input = Arc::from("");
            let (at, step, audience, agent, key) = (*at, StepKind::Model, Audience::User, None, Arc::from("k"));
            let started = Record::StepStarted { at, attempt: 1, step, audience, agent, key, input };
            journal.push(entry(n, started));
        }
        journal.push(entry(n, record));
        lost.push(Past::of(&journal).unwrap().lost_until(at(2_000)).as_secs());
    }
    assert_eq!(lost, [2_000, 1_990, 1_990, 40, 980, 970, 970]);
}

fn entry(position: u64, record: Record) -> Positioned {
    let (position, epoch, path) = (Position(position), Epoch(0), Arc::from("model#0"));
    Positioned { position, epoch, seq: None, path, record, body: None }
}
