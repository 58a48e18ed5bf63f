//! Firmware in flash: chips below 4 GiB, mapped for the guest while they show their content.

use std::sync::Arc;

use rhea_arch::kvm::{Access, HostRange, MemoryError};
use rhea_arch::x86_64::layout::FOUR_GIB;
use rhea_devices::flash::{Flash, LARGEST};

use super::BoardError;
use super::accel::{Accelerator, Mapping};
use super::attach::Backends;
use super::plan::FlashPlan;

/// A chip and where it lies.
#[derive(Clone)]
pub(super) struct Placed {
    pub(super) base: u64,
    pub(super) chip: Arc<Flash>,
}

/// Makes the chips: the first one ends at 4 GiB, each further one where the one before begins.
pub(super) fn open(units: &[FlashPlan], backends: &dyn Backends) -> Result<Vec<Placed>, BoardError> {
    let mut base = FOUR_GIB;
    let mut all = Vec::new();
    for unit in units {
        let id = &unit.id;
        let image = backends.image(&unit.storage, id)?.ok_or_else(|| no_image(id))?;
        let chip = Flash::new(id.as_str(), image, backends.stats(id)).map_err(BoardError::device(id))?;
        base -= chip.size();
        all.push(Placed { base, chip: Arc::new(chip) });
    }
    if FOUR_GIB - base > LARGEST { Err(BoardError::FirmwareSize(FOUR_GIB - base)) } else { Ok(all) }
}

fn no_image(id: &str) -> BoardError {
    BoardError::device(id)(std::io::Error::other("flash needs an image"))
}

impl Placed {
    /// Follows what the chip shows: mapped while that is its content.
    pub(super) fn refresh(&self, accel: &dyn Accelerator, mapping: &mut Option<Mapping>) -> Result<(), MemoryError> {
        match (self.chip.shows_array(), &mapping) {
            (true, None) => {
                let host = HostRange::of_mapping(self.chip.array(), 0, self.chip.size())?;
                *mapping = Some(accel.map(self.base, host, Access::ReadOnly)?);
            }
            (false, Some(_)) => *mapping = None,
            _ => {}
        }
        Ok(())
    }
}
