//! Both adapters through the contract, and the control that must fail it.

use std::sync::Arc;

use fleet_actors::ids::Position;
use fleet_actors::ports::{Outcome, Store, StoreError, WorkflowFilter};
use fleet_actors::testing::store_contract::{CASES, Harness, violations};
use fleet_actors::testing::{CommitFault, ManualClock, MemoryStore};

use crate::support::{OnDisk, make, without_syncs};

struct InMemory {
    store: MemoryStore,
    clock: ManualClock,
}

impl InMemory {
    fn new(make: fn(Arc<ManualClock>) -> MemoryStore) -> Self {
        let clock = ManualClock::default();
        Self { store: make(Arc::new(clock.clone())), clock }
    }
}

impl Harness for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn restart(&mut self) {
        self.store = self.store.restarted();
    }

    fn clock(&self) -> ManualClock {
        self.clock.clone()
    }
}

#[test]
fn the_store_on_disk_keeps_the_contract() {
    // The promises are the same without a sync for each of some thousand commits; that those happen is shown elsewhere.
    assert_eq!(violations(|| OnDisk::new(without_syncs)), []);
    assert!(CASES.len() >= 40, "{} cases", CASES.len());
}

#[test]
fn the_store_in_memory_keeps_the_contract() {
    assert_eq!(violations(|| InMemory::new(|clock| MemoryStore::new(clock))), []);
}

#[test]
fn a_store_without_the_epoch_check_breaks_the_contract() {
    let broken = violations(|| InMemory::new(|clock| MemoryStore::without_epoch_check(clock)));
    let cases: Vec<_> = broken.iter().map(|violation| violation.case).collect();
    assert_eq!(cases, ["a_stale_life_is_fenced"]);
}

#[test]
fn a_deep_copy_of_the_store_in_memory_goes_its_own_way() {
    let mut harness = InMemory::new(|clock| MemoryStore::new(clock));
    let copy = harness.store.fork_state();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (_, case) = CASES[0];
    runtime.block_on(case(&mut harness));
    let all = || WorkflowFilter { limit: 10, ..WorkflowFilter::default() };
    assert_eq!(runtime.block_on(copy.workflows(all())), Ok(vec![]));
    assert_eq!(runtime.block_on(harness.store.workflows(all())).map(|rows| rows.len()), Ok(1));
}

#[test]
fn faults_of_the_store_in_memory_are_drawn_for_each_commit() {
    let harness = InMemory::new(|clock| MemoryStore::new(clock));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut faults = vec![CommitFault::LoseAck, CommitFault::RefuseBefore(StoreError::Full)];
    harness.store.on_commit(move |_| faults.pop().unwrap_or(CommitFault::Proceed));
    let commit = |id: &str| runtime.block_on(harness.store.commit(vec![make::first(id, 1).into()]));
    let done = Ok(vec![Outcome::Done { head: Position(1) }]);
    assert_eq!(commit("w"), Err(StoreError::Full));
    assert!(matches!(commit("w"), Err(StoreError::Unavailable(_))), "written, but nobody was told");
    assert_eq!(runtime.block_on(harness.store.read(&make::id("w"), Position(0), 1)).map(|rows| rows.len()), Ok(1));
    assert_eq!(commit("w"), done, "the same words again");
}
