//! The contract that every [`Store`] keeps, as cases that any adapter can be put through.
//!
//! A case knows nothing of the adapter but its [`Harness`]. Negative control: through
//! [`MemoryStore::without_epoch_check`](super::MemoryStore::without_epoch_check) the suite must find
//! [violations](violations).
//! Absent on purpose: faults of one adapter's own, such as damaged bytes or a full disk.

mod appends;
mod children;
mod commands;
mod forks;
mod history;
mod lives;
mod make;
mod removals;
mod talks;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::ManualClock;
use crate::ports::{LocalFuture, Store};

/// An empty store of the adapter under test, and the process around it.
pub trait Harness {
    /// The store as this process has it.
    fn store(&self) -> Arc<dyn Store>;
    /// Kills the process and starts the next over what is durable.
    fn restart(&mut self);
    /// The clock by which the store judges expiry.
    fn clock(&self) -> ManualClock;
}

/// One promise, kept or broken by a panic.
pub type Case = for<'a> fn(&'a mut dyn Harness) -> LocalFuture<'a, ()>;

macro_rules! cases {
    ($($module:ident: $($case:ident),+ $(,)?;)+) => {
        /// Every case under its name.
        pub const CASES: &[(&str, Case)] = &[$($((stringify!($case), |harness| Box::pin($module::$case(harness)))),+),+];
    };
}

cases! {
    appends:
        an_append_is_read_back_as_it_was_written,
        records_are_paged_by_bytes_and_a_page_holds_at_least_one,
        events_are_found_by_their_number,
        an_append_asked_again_is_done_once,
        of_two_owners_of_one_epoch_that_end_alike_one_is_refused,
        an_append_that_does_not_follow_the_head_is_a_gap,
        records_with_a_hole_are_a_gap,
        a_workflow_that_nobody_made_is_unknown,
        a_stale_life_is_fenced,
        a_newer_life_takes_over_only_by_beginning,
        a_workflow_that_is_over_takes_no_more,
        a_refused_append_leaves_the_others_of_its_batch_alone,
        appends_of_one_workflow_in_one_batch_see_each_other,
        a_request_key_starts_one_run;
    commands:
        the_first_answer_wins,
        nobody_answers_after_the_expiry,
        a_closed_question_is_told_from_an_unknown_one,
        a_cancel_is_taken_once_until_the_end,
        the_end_consumes_the_inbox;
    lives:
        what_ran_in_an_earlier_process_is_adopted_oldest_first,
        a_parked_workflow_is_due_by_its_timer_or_its_inbox,
        resting_workflows_are_never_adopted,
        a_workflow_is_put_to_rest_only_at_its_epoch,
        workflows_are_listed_newest_first;
    children:
        a_child_is_made_with_its_parents_end_and_is_in_no_list,
        children_come_a_page_at_a_time_oldest_first_those_that_ran_before_among_them,
        a_childs_end_changes_its_parents_message_and_entry,
        a_child_that_will_not_go_on_leaves_its_parent_not_scored,
        a_childs_own_rest_leaves_its_parent_not_scored,
        a_deleted_parent_takes_its_children_along,
        open_questions_are_listed_over_all_workflows;
    forks:
        a_fork_begins_with_its_parents_records,
        a_fork_of_a_fork_reads_through_the_whole_chain,
        a_fork_asked_for_twice_is_one,
        a_fork_of_what_is_not_there_is_not_found,
        shared_records_outlive_a_deleted_parent;
    talks:
        the_first_message_gives_the_title,
        conversations_are_listed_by_their_last_change,
        the_newest_messages_come_oldest_first;
    history:
        any_page_of_history_is_the_same_by_offset_and_by_cursor,
        changes_of_history_are_queued_for_export,
        history_is_scanned_in_the_order_of_ids;
    removals:
        a_deleted_conversation_leaves_nothing,
        a_live_execution_is_not_deleted,
        all_of_history_is_cleared_but_what_lives,
        old_journals_are_swept_and_history_stays,
        old_history_is_swept_with_its_journals_and_nothing_else,
        what_a_fork_shares_is_not_swept,
        a_probe_leaves_nothing;
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The case.
    pub case: &'static str,
    /// What its assertion said.
    pub said: String,
}

/// Puts a store through every case, each with a harness of its own; the cases it fails.
///
/// # Panics
/// If no runtime can be started.
pub fn violations<H: Harness>(make: impl Fn() -> H) -> Vec<Violation> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime for the contract");
    let broken = |(name, case): &(&'static str, Case)| {
        let run = AssertUnwindSafe(|| {
            let mut harness = make();
            runtime.block_on(case(&mut harness));
        });
        let panic = catch_unwind(run).err()?;
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Some(Violation { case: name, said: said.unwrap_or("it panicked").to_owned() })
    };
    CASES.iter().filter_map(broken).collect()
}
