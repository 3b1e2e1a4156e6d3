//! `config check`: the effective settings, where each value comes from, secrets redacted.

use crate::settings::{Effective, report};

pub(super) fn check(effective: Effective) -> i32 {
    print!("{}", report(&effective));
    0
}
