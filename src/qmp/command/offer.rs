//! Which of the commands this machine has. What is not offered is not listed and not found.

use std::collections::HashSet;

use super::Command;

/// A set of command names; all of them unless some are taken out.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    without: HashSet<&'static str>,
}

impl Offer {
    /// Every command.
    pub fn all() -> Self {
        Self::default()
    }

    /// The same less these.
    pub fn without(mut self, names: &[&'static str]) -> Self {
        debug_assert!(names.iter().all(|name| Command::NAMES.contains(name)));
        self.without.extend(names);
        self
    }

    /// Whether the command is there.
    pub fn has(&self, name: &str) -> bool {
        !self.without.contains(name) && Command::NAMES.contains(&name)
    }

    /// The names that are there.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        Command::NAMES.iter().copied().filter(|name| !self.without.contains(name))
    }
}
