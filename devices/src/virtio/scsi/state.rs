//! What is saved of an adapter: the sizes the driver set, events that wait, and each unit's own state.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bus::{ScsiAddress, ScsiBus};
use super::config::Shared;
use super::events::Event;
use crate::lifecycle::DeviceError;
use crate::scsi::UnitState;

/// Version of [`ScsiState`].
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScsiState {
    version: u32,
    cdb_size: u32,
    sense_size: u32,
    events: Vec<Event>,
    missed: bool,
    units: Vec<(ScsiAddress, UnitState)>,
}

fn unfit(device: &str, why: String) -> DeviceError {
    DeviceError::State { device: device.to_owned(), why }
}

impl ScsiState {
    pub(super) fn of(shared: &Shared, bus: &ScsiBus) -> Self {
        let (cdb_size, sense_size) = shared.sizes();
        let (events, missed) = bus.events().save();
        let units = bus.units().iter().map(|(address, unit)| (*address, unit.save())).collect();
        Self { version: VERSION, cdb_size, sense_size, events, missed, units }
    }

    pub(super) fn to_value(&self) -> Value {
        json!({
            "version": self.version,
            "cdb_size": self.cdb_size,
            "sense_size": self.sense_size,
            "events": self.events,
            "missed": self.missed,
            "units": self.units,
        })
    }

    pub(super) fn from_value(state: Value, device: &str) -> Result<Self, DeviceError> {
        let state: Self = serde_json::from_value(state).map_err(|error| unfit(device, error.to_string()))?;
        if state.version != VERSION {
            return Err(unfit(device, format!("version {} where {VERSION} is known", state.version)));
        }
        Ok(state)
    }

    pub(super) fn apply(&self, shared: &Shared, bus: &ScsiBus, device: &str) -> Result<(), DeviceError> {
        let units = bus.units();
        let same = units.iter().map(|(address, _)| address).eq(self.units.iter().map(|(address, _)| address));
        if !same {
            return Err(unfit(device, "its units are not those of this adapter".to_owned()));
        }
        // A unit that refuses leaves those before it changed: they are put back.
        let before: Vec<UnitState> = units.iter().map(|(_, unit)| unit.save()).collect();
        let (cdb_before, sense_before) = shared.sizes();
        let put_back = || {
            for ((_, unit), state) in units.iter().zip(&before) {
                if let Err(why) = unit.restore(state) {
                    log::error!("a unit does not take its own state back: {why}");
                }
            }
            shared.set_sizes(cdb_before, sense_before);
        };
        if !shared.set_sizes(self.cdb_size, self.sense_size) {
            return Err(unfit(device, format!("sizes {} and {}", self.cdb_size, self.sense_size)));
        }
        for ((address, unit), (_, state)) in units.iter().zip(&self.units) {
            if let Err(why) = unit.restore(state) {
                put_back();
                return Err(unfit(device, format!("{address}: {why}")));
            }
        }
        bus.events().restore(&self.events, self.missed);
        Ok(())
    }
}
