//! What waits for a life, and what a rest says, when one life follows another before anybody looks.

use futures_util::FutureExt as _;

use super::{Logs, Seen, TailState, Watcher};
use crate::ids::{Position, Seq, WorkflowId};
use crate::ports::Rest;

fn resting() -> TailState {
    TailState::Resting(Rest::Interrupted, "rests".to_owned())
}

#[test]
fn how_the_last_life_left_is_no_news_of_the_next_one() {
    for last in [None, Some(TailState::Parked), Some(resting())] {
        let log = Logs::new(1).open(&WorkflowId::generate());
        if let Some(last) = last.clone() {
            log.begin(Seq(0), Position(0));
            log.rest(last);
        }
        let mut left = Box::pin(log.left());
        assert_eq!((&mut left).now_or_never(), None, "{last:?}");
        log.begin(Seq(0), Position(0));
        assert_eq!((&mut left).now_or_never(), None, "{last:?}");
        log.rest(TailState::Ended);
        assert_eq!((&mut left).now_or_never(), Some(()), "{last:?}");
    }
}

#[test]
fn a_run_that_rests_again_says_so_again_to_who_begins_anew() {
    let mut watcher = Watcher::new(Logs::new(1).open(&WorkflowId::generate()), Seq(0)).expect("a place");
    let log = watcher.log.clone();
    let rests = Some(Seen::Rests(Rest::Interrupted, "rests".to_owned()));
    log.begin(Seq(0), Position(0));
    log.rest(resting());
    assert_eq!(watcher.next().now_or_never(), rests);
    assert_eq!(watcher.next().now_or_never(), None, "once");
    log.begin(Seq(0), Position(0));
    watcher.go_back_to(Seq(0));
    log.rest(resting());
    assert_eq!(watcher.next().now_or_never(), rests);
}
