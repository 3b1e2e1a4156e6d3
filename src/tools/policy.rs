//! Which rule a call falls under. Decided from the settings alone, for each principal and tool.
//!
//! Invariant: what no rule fits is denied.

use fleet_actors::ports::Access;

use super::Reach;
use crate::settings::{AccessRule, PolicyRule};

/// The rules, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct Policy(Vec<PolicyRule>);

impl Policy {
    /// These rules.
    #[must_use]
    pub fn new(rules: &[PolicyRule]) -> Self {
        Self(rules.to_vec())
    }

    /// What may be done about a call of `tool` by `principal`.
    #[must_use]
    pub fn access(&self, principal: &str, tool: &str, reach: Reach) -> Access {
        let fits = |rule: &&PolicyRule| {
            rule.principal.fits(principal)
                && rule.tool.fits(tool)
                && rule.read_only.is_none_or(|read_only| read_only == (reach == Reach::Reads))
        };
        match self.0.iter().find(fits).map(|rule| rule.access) {
            Some(AccessRule::Allow) => Access::Allow,
            Some(AccessRule::Ask) => Access::Ask,
            Some(AccessRule::Deny) | None => Access::Deny,
        }
    }
}
