//! Changing key slots (`amend -o encrypt.state=...`). The messages are those that QEMU's users know.

use std::time::Duration;

use super::effort::{Effort, check_iter_time};
use super::header::Slot;
use super::{Luks, SLOTS, invalid};
use crate::crypto::secret::Secret;
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, write_all};

/// What is done to the slots of a header.
#[derive(Debug, Clone)]
pub enum SlotChange {
    /// A slot gets a password.
    Activate {
        /// The password.
        new: Secret,
        /// The slot, or the first that is free.
        slot: Option<u64>,
        /// How long one key derivation is to take, at most [`super::MOST_ITER_TIME`].
        iter_time: Duration,
        /// Also over the password that `slot` has.
        force: bool,
    },
    /// Slots lose their password.
    Erase {
        /// The slot.
        slot: Option<u64>,
        /// All slots that this password opens.
        old: Option<Secret>,
        /// Also when the disk is lost with it.
        force: bool,
    },
}

fn slot_number(slot: u64) -> Result<usize, BlockError> {
    let number = usize::try_from(slot).ok().filter(|n| *n < SLOTS);
    number.ok_or_else(|| invalid(format!("Invalid keyslot {slot} specified, must be between 0 and {}", SLOTS - 1)))
}

impl Luks {
    /// Does `change` to the header at `base` of `file`, which `password` opens.
    ///
    /// # Errors
    /// When the change would lose the disk or makes no sense, no slot opens, or the header cannot be written.
    pub fn change_slots(
        &mut self,
        file: &dyn Layer,
        base: u64,
        password: &Secret,
        change: &SlotChange,
    ) -> Result<(), BlockError> {
        match change {
            SlotChange::Activate { new, slot, iter_time, force } => {
                check_iter_time(*iter_time)?;
                let n = self.slot_to_fill(*slot, *force)?;
                let key = self.master_key(file, base, password)?;
                self.set_slot(file, base, n, &key, new, *iter_time)
            }
            SlotChange::Erase { slot, old, force } => {
                let gone = self.slots_to_erase(file, base, *slot, old.as_ref(), *force)?;
                gone.into_iter().try_for_each(|n| self.erase_slot(file, base, n))
            }
        }
    }

    fn slot_to_fill(&self, asked: Option<u64>, force: bool) -> Result<usize, BlockError> {
        let Some(slot) = asked else {
            let free = self.slots.iter().position(|slot| !slot.active);
            return free
                .ok_or_else(|| BlockError::new(ErrorKind::NoSpace, "Can't add a keyslot - all keyslots are in use"));
        };
        let n = slot_number(slot)?;
        if self.slots[n].active && !force {
            return Err(invalid(format!("Refusing to overwrite active keyslot {n} - please erase it first")));
        }
        Ok(n)
    }

    fn slots_to_erase(
        &self,
        file: &dyn Layer,
        base: u64,
        slot: Option<u64>,
        old: Option<&Secret>,
        force: bool,
    ) -> Result<Vec<usize>, BlockError> {
        let active = self.slots.iter().filter(|slot| slot.active).count();
        let mut effort = Effort::new();
        let mut opens = |n: usize| {
            let (Some(old), slot) = (old, &self.slots[n]) else { return Ok(false) };
            self.take_upon(&mut effort, n, slot)?;
            self.try_slot(file, base, slot, old).map(|key| key.is_some())
        };
        if let Some(slot) = slot {
            let n = slot_number(slot)?;
            if old.is_some() && !opens(n)? {
                return Err(invalid("This keyslot doesn't contain the given (old) password"));
            }
            if !force && !self.slots[n].active {
                return Err(invalid(format!("Given keyslot {n} is already erased (inactive) ")));
            }
            if !force && active == 1 {
                return Err(invalid(format!(
                    "Attempt to erase the only active keyslot {n} which will erase all the data in the image \
                     irreversibly - refusing operation"
                )));
            }
            return Ok(vec![n]);
        }
        if old.is_none() {
            return Err(invalid(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must \
                 be given",
            ));
        }
        let mut gone = Vec::new();
        for n in (0..SLOTS).filter(|n| self.slots[*n].active) {
            if opens(n)? {
                gone.push(n);
            }
        }
        if gone.is_empty() {
            return Err(invalid("No keyslots match given (old) password for erase operation"));
        }
        if !force && gone.len() == active {
            return Err(invalid(
                "All the active keyslots match the (old) password that was given and erasing them will erase all the \
                 data in the image irreversibly - refusing operation",
            ));
        }
        Ok(gone)
    }

    /// Writes over the key material, more than once for what the medium may keep, and frees the slot.
    fn erase_slot(&mut self, file: &dyn Layer, base: u64, n: usize) -> Result<(), BlockError> {
        /// Times that the key material is written over.
        const PASSES: usize = 8;
        let slot = Slot::empty(self.slots[n].sector);
        let mut noise = vec![0; self.key_len() * slot.stripes as usize];
        for _ in 0..PASSES {
            crate::crypto::fill_random(&mut noise)?;
            write_all(file, &noise, base + slot.offset())?;
            file.flush()?;
        }
        self.slots[n] = slot;
        write_all(file, &self.encode(), base)?;
        file.flush()
    }
}
