//! Readers that wait until what was acknowledged can be read.
//!
//! A read that is about one thing alone waits only if that was changed.
//! Absent on purpose: when anything is settled.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use fleet_actors::ids::{ConversationId, WorkflowId};
use fleet_actors::ports::{Append, Next};
use tokio::sync::oneshot;

/// Fewer readers than this are never looked through.
const SWEEP_LEAST: usize = 64;

/// Readers that wait until what was acknowledged can be read.
#[derive(Default)]
pub(super) struct Settling {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Something is acknowledged and cannot be read.
    behind: bool,
    /// What it changes, where a read may be about that alone.
    touched: HashSet<Subject>,
    readers: Vec<oneshot::Sender<bool>>,
    /// So many are there when those are looked for that gave up.
    sweep_at: usize,
    /// Nobody settles anything any more.
    ended: bool,
}

/// What a read is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// Whatever it is.
    Anything,
    /// The row of a workflow and its records.
    Workflow(WorkflowId),
    /// The messages of a conversation, and which of its runs run.
    Conversation(ConversationId),
    /// The run of a request key.
    Request(Arc<str>),
}

/// What an append changes, of the things that a read may be about alone.
fn subjects(append: &Append) -> impl Iterator<Item = Subject> {
    let own = Subject::Workflow(append.claim.workflow.clone());
    let children = append.children.iter().map(|child| Subject::Workflow(child.workflow.clone()));
    let made = append.create.as_ref().and_then(|made| made.conversation.clone());
    let key = append.create.as_ref().and_then(|made| made.request.as_ref()).map(|asked| asked.key.clone());
    let said = append.messages.iter().map(|message| message.conversation.clone());
    // A run that rested or was parked goes on: its conversation is not said here.
    let goes_on = append.create.is_none() && append.records.first().is_some_and(|record| &*record.kind == "began");
    let (ended, any) = match &append.next {
        Next::Running => (None, goes_on.then_some(Subject::Anything)),
        Next::Ended(row) => (row.conversation_id.clone(), None),
        Next::Parked { .. } | Next::Resting(_) => (None, Some(Subject::Anything)),
    };
    let conversations = made.into_iter().chain(said).chain(ended).map(Subject::Conversation);
    std::iter::once(own).chain(children).chain(conversations).chain(key.map(Subject::Request)).chain(any)
}

/// What a reader has to do.
pub(super) enum Turn {
    /// Everything can be read.
    Now,
    /// It cannot be read any more.
    Never,
    /// Wait for this, which says whether everything can be read then; and tell the writer, if nobody did.
    Later(oneshot::Receiver<bool>, bool),
}

impl Settling {
    /// Whether what was acknowledged about this can be read, and what to wait for if not.
    pub fn turn(&self, subject: &Subject) -> Turn {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = |subject: &Subject| state.touched.contains(subject);
        let is_touched = match subject {
            Subject::Anything => true,
            Subject::Conversation(_) => touched(subject) || touched(&Subject::Anything),
            Subject::Workflow(_) | Subject::Request(_) => touched(subject),
        };
        if !state.behind || !is_touched {
            return Turn::Now;
        }
        if state.ended {
            return Turn::Never;
        }
        let (reader, settled) = oneshot::channel();
        let first = state.readers.is_empty();
        if state.readers.len() >= state.sweep_at {
            state.readers.retain(|reader| !reader.is_closed());
            state.sweep_at = 2 * state.readers.len().max(SWEEP_LEAST);
        }
        state.readers.push(reader);
        Turn::Later(settled, first)
    }

    /// These are about to be acknowledged, and cannot be read.
    pub fn touch(&self, appends: &[Arc<Append>]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.behind = true;
        state.touched.extend(appends.iter().flat_map(|append| subjects(append)));
    }

    /// Lets readers go on: everything can be read, or, if it is behind, this will not change soon.
    pub fn let_go(&self, behind: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.behind = behind;
        if !behind {
            state.touched.clear();
        }
        for reader in state.readers.drain(..) {
            let _ = reader.send(!behind);
        }
    }

    /// Nobody settles anything any more when what this gives is dropped: reads that are about what is not settled are refused.
    pub fn until_dropped(self: Arc<Self>) -> Settles {
        Settles(self)
    }

    pub fn is_wanted(&self) -> bool {
        !self.state.lock().unwrap_or_else(PoisonError::into_inner).readers.is_empty()
    }
}

/// Held by whoever settles, however that ends.
pub(super) struct Settles(Arc<Settling>);

impl Drop for Settles {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.0.let_go(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_gave_up_are_forgotten_while_nobody_settles() {
        let settling = Settling::default();
        settling.touch(&[]);
        let Turn::Later(waits, true) = settling.turn(&Subject::Anything) else { panic!("it is behind") };
        for _ in 0..10_000 {
            let Turn::Later(_, false) = settling.turn(&Subject::Anything) else { panic!("one waits already") };
        }
        assert!(settling.state.lock().unwrap().readers.len() <= 2 * SWEEP_LEAST + 1);
        settling.let_go(false);
        assert_eq!(waits.blocking_recv(), Ok(true));
    }

    #[test]
    fn a_read_that_waits_goes_on_when_nobody_is_left_who_settles() {
        let settling = Arc::new(Settling::default());
        let settles = settling.clone().until_dropped();
        settling.touch(&[]);
        let Turn::Later(mut settled, true) = settling.turn(&Subject::Anything) else { panic!("it is behind") };
        assert!(settled.try_recv().is_err(), "and waits");
        drop(settles);
        assert_eq!(settled.try_recv(), Ok(false));
        assert!(matches!(settling.turn(&Subject::Anything), Turn::Never));
    }
}
