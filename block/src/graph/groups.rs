//! Throttle groups by name.

use std::sync::Arc;

use super::Graph;
use crate::error::{BlockError, ErrorKind};
use crate::throttle::{Group, Limits};

impl Graph {
    /// Makes the group `name`.
    ///
    /// # Errors
    /// When the name is taken, or the limits contradict each other.
    pub fn add_throttle_group(&self, name: &str, limits: Limits) -> Result<Arc<Group>, BlockError> {
        limits.check()?;
        let mut groups = self.lock_groups();
        if groups.contains_key(name) {
            let text = format!("A group with name '{name}' already exists");
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let group = Group::new(name, limits);
        groups.insert(name.to_owned(), group.clone());
        Ok(group)
    }

    /// The group `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn throttle_group(&self, name: &str) -> Result<Arc<Group>, BlockError> {
        let missing = || BlockError::new(ErrorKind::NotFound, format!("Throttle group '{name}' does not exist"));
        self.lock_groups().get(name).cloned().ok_or_else(missing)
    }

    /// Lets everything through all limits, or keeps them again: see [`Group::lift`].
    pub fn lift_limits(&self, lifted: bool) {
        self.lock_groups().values().for_each(|group| group.lift(lifted));
    }

    /// Forgets the group `name`.
    ///
    /// # Errors
    /// When there is none, or nodes or disks use it.
    pub fn remove_throttle_group(&self, name: &str) -> Result<(), BlockError> {
        let mut groups = self.lock_groups();
        match groups.get(name) {
            None => Err(BlockError::new(ErrorKind::NotFound, format!("object '{name}' not found"))),
            Some(group) if Arc::strong_count(group) > 1 => {
                Err(BlockError::new(ErrorKind::Invalid, format!("object '{name}' is in use, can not be deleted")))
            }
            Some(_) => {
                groups.remove(name);
                Ok(())
            }
        }
    }
}
