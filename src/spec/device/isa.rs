//! Devices at fixed I/O ports.

use crate::spec::error::SpecError;

spec_struct! {
    /// What every ISA device has.
    pub part IsaSpec as "isa-device" {
        /// Name of the device in commands and events.
        pub id: Option<String>,
        /// Bus that the device sits on.
        pub bus: Option<String>,
    }
}

spec_struct! {
    /// A 16550 serial port.
    pub struct IsaSerialSpec as "isa-serial" with isa: IsaSpec {
        /// The character device at the host's end; without one nothing is there.
        pub chardev: Option<String>,
        /// Which of COM1 to COM4, from 0; the next one when not given.
        pub index: Option<u32>,
        /// First I/O port; as the index says when not given.
        pub iobase: Option<u16>,
        /// ISA interrupt; as the index says when not given.
        pub irq: Option<u8>,
    }
}

impl IsaSerialSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.index.is_some_and(|index| index >= 4) {
            return Err(SpecError::new("Max. supported number of ISA serial ports is 4."));
        }
        match self.irq {
            Some(irq) if irq >= 16 => Err(SpecError::new("Maximum value for \"irq\" is: 15")),
            _ => Ok(()),
        }
    }
}

spec_struct! {
    /// An I/O port that ends the process: the guest writes N and the exit status is 2 * N + 1.
    pub struct IsaDebugExitSpec as "isa-debug-exit" with isa: IsaSpec {
        /// First I/O port.
        pub iobase: u16 = 0x501,
        /// How many ports.
        pub iosize: u16 = 2,
    }
}

spec_struct! {
    /// A port at which the guest's kernel tells that it has panicked.
    pub struct PvpanicSpec as "pvpanic" with isa: IsaSpec {
        /// The I/O port.
        pub ioport: u16 = 0x505,
        /// What may be told: 1 for a panic, 2 for one after which another kernel goes on.
        pub events: u8 = 3,
    }
}

spec_struct! {
    /// Ports, memory and interrupt lines for test programs of hypervisors.
    pub struct PcTestDevSpec as "pc-testdev" with isa: IsaSpec {}
}

spec_struct! {
    /// An I/O port whose bytes go to a character device.
    pub struct IsaDebugconSpec as "isa-debugcon" with isa: IsaSpec {
        /// The character device at the host's end.
        pub chardev: String,
        /// The I/O port.
        pub iobase: u16 = 0xe9,
        /// What a read gives, so that a guest can find the port.
        pub readback: u8 = 0xe9,
    }
}
