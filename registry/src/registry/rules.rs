//! Changes of the settings of a registry that is in use.

use super::Registry;
use crate::config::Rules;

impl Registry {
    /// Changes the settings for what is registered from now on. Stored sessions keep the lifetimes that
    /// they were granted until they are renewed, and stay if there are more of them than a lower limit.
    pub fn set_rules(&self, rules: Rules) {
        self.table().set_rules(rules);
    }
}
