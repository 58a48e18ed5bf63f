//! `pvpanic` (QEMU's docs/specs/pvpanic): a port at which the guest's kernel tells that it has panicked.

use std::sync::Arc;

use super::{LegacyChip, PortRange};
use crate::bus::{BusDevice, BusFault, Crash, Effect};
use crate::lifecycle::{Lifecycle, Saver};

/// The kernel has panicked.
const PANICKED: u8 = 1 << 0;
/// It goes on in the kernel that was loaded for that.
const LOADED: u8 = 1 << 1;

/// The device.
pub struct Pvpanic {
    port: u16,
    events: u8,
}

impl Pvpanic {
    /// Where guests look for it that do not ask ACPI.
    pub const DEFAULT_PORT: u16 = 0x505;
    /// All events that there are.
    pub const EVENTS: u8 = PANICKED | LOADED;

    /// At `port`; the guest is offered those of [`Pvpanic::EVENTS`] that are in `events`.
    #[must_use]
    pub const fn new(port: u16, events: u8) -> Self {
        Self { port, events: events & Self::EVENTS }
    }
}

impl BusDevice for Pvpanic {
    /// What may be told.
    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = self.events;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let told = *data.first().ok_or(BusFault { offset, len: 0 })? & self.events;
        Ok(if told & PANICKED != 0 {
            Effect::Crash(Crash::Panicked)
        } else if told & LOADED != 0 {
            Effect::Crash(Crash::Loaded)
        } else {
            Effect::None
        })
    }
}

impl Lifecycle for Pvpanic {
    fn name(&self) -> &str {
        "pvpanic"
    }
    fn reset(&self) {}
    fn saver(&self) -> Saver<'_> {
        Saver::Stateless
    }
}

impl LegacyChip for Pvpanic {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: self.port, len: 1, device: self }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{peek, poke};

    #[test]
    fn port_tells_what_may_be_told_and_takes_that() {
        let all = Pvpanic::new(Pvpanic::DEFAULT_PORT, 0xff);
        let one = Pvpanic::new(Pvpanic::DEFAULT_PORT, 1);

        assert_eq!([peek(&all, 0, 1), peek(&one, 0, 1)], [Some(3), Some(1)]);
        assert_eq!(
            [1, 2, 3, 4].map(|value| poke(&all, 0, 1, value).unwrap()),
            [
                Effect::Crash(Crash::Panicked),
                Effect::Crash(Crash::Loaded),
                Effect::Crash(Crash::Panicked),
                Effect::None,
            ]
        );
        assert_eq!(poke(&one, 0, 1, 2), Some(Effect::None));
    }
}
