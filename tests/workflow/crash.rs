//! A process that dies at any record: what was paid for is not paid for again, and the answer is the same.

use std::collections::BTreeMap;

use fleet_actors::event::RunOutcome;
use fleet_actors::journal::{Positioned, Record};

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
