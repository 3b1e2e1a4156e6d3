//! `config check`: the effective settings, where each value comes from, secrets redacted.

use super::terminal::say;
use crate::settings::{Effective, report};

pub(super) fn check(effective: Effective) -> i32 {
    say(report(&effective).trim_end());
    0
}
