//! What a run waits for: answers to its questions and timers, and when the first of them is due.

use std::sync::Arc;
use std::task::Poll;

use super::{OpenStep, Run, Waiting, json};
use crate::event::{Answer, EventBody, Question};
use crate::ids::{RequestId, Timestamp};
use crate::journal::Record;
use crate::ports::OpenedQuestion;

impl Run {
    pub fn ask(&self, path: &Arc<str>, question: &Question, input: &Arc<str>) {
        let at = self.now();
        let record = Record::Asked { at, input: input.clone() };
        let event = EventBody::Asked { step: path.clone(), question: question.clone() };
        self.push_event(path, at, record, Some(json(question)), event);
        self.wait_for_answer(path, question, input);
    }

    /// Registers an open question, asked now or in an earlier life.
    pub fn wait_for_answer(&self, path: &Arc<str>, question: &Question, input: &Arc<str>) {
        // Said again in every life: a fork's store knows nothing of the questions that its shared records leave open.
        self.opened.borrow_mut().push(OpenedQuestion { question: question.clone(), asked_at: self.now() });
        self.want_flush();
        let open = OpenStep::question(question.request_id.clone(), input.clone(), self.now());
        self.open.borrow_mut().insert(path.clone(), open);
        self.waiting.borrow_mut().insert(path.clone(), Waiting { until: question.expires_at });
    }

    /// The driver found an answer in the inbox.
    pub fn deliver(&self, request: &RequestId, answer: Answer) {
        self.answers.borrow_mut().entry(request.clone()).or_insert(answer);
        if let Some(waker) = self.answer_wakers.borrow_mut().remove(request) {
            waker.wake();
        }
    }

    /// Waits for the answer and journals it.
    pub async fn answer(&self, path: &Arc<str>, question: &Question) -> Answer {
        let request_id = &question.request_id;
        let answer = std::future::poll_fn(|cx| match self.answers.borrow_mut().remove(request_id) {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.answer_wakers.borrow_mut().insert(request_id.clone(), cx.waker().clone());
                Poll::Pending
            }
        })
        .await;
        self.open.borrow_mut().remove(path);
        self.waiting.borrow_mut().remove(path);
        self.closed.borrow_mut().push(request_id.clone());
        let at = self.now();
        let record = Record::Answered { at, request_id: request_id.clone() };
        let event = EventBody::Answered { step: path.clone(), request_id: request_id.clone(), answer: answer.clone() };
        self.progressed();
        self.push_event(path, at, record, Some(json(&answer)), event);
        answer
    }

    /// Open questions whose time is over.
    pub fn expired_questions(&self, now: Timestamp) -> Vec<RequestId> {
        let waiting = self.waiting.borrow();
        let open = self.open.borrow();
        let due = waiting.iter().filter(|(_, waits)| waits.until <= now);
        due.filter_map(|(path, _)| open.get(path)?.question.clone()).collect()
    }

    /// When the first open question expires.
    pub fn first_expiry(&self) -> Option<Timestamp> {
        let open = self.open.borrow();
        let asks = |path: &Arc<str>| open.get(path).is_some_and(|step| step.question.is_some());
        self.waiting.borrow().iter().filter(|(path, _)| asks(path)).map(|(_, waits)| waits.until).min()
    }

    pub fn set_waiting(&self, path: &Arc<str>, until: Option<Timestamp>) {
        let mut waiting = self.waiting.borrow_mut();
        match until {
            Some(until) => drop(waiting.insert(path.clone(), Waiting { until })),
            None => drop(waiting.remove(path)),
        }
    }

    /// When the first thing that waits ends by itself; `None` when nothing waits.
    pub fn first_wake(&self) -> Option<Timestamp> {
        self.waiting.borrow().values().map(|waits| waits.until).min()
    }

    /// Whether a question is open.
    pub fn asks(&self) -> bool {
        self.open.borrow().values().any(|step| step.question.is_some())
    }
}
