//! Register layout of the power management function (82371AB data sheet, chapter 7; ACPI 6.5, 4.8.3).

/// Frequency of the PM timer in hertz (ACPI 6.5, 4.8.3.3).
pub const TIMER_HERTZ: u32 = 3_579_545;
/// The PM timer counts in 24 bits.
pub(super) const TIMER_MASK: u64 = (1 << 24) - 1;
/// Ticks between two changes of its top bit.
pub(super) const TIMER_HALF: u64 = 1 << 23;

/// Ports of the PM block.
pub const PM_LEN: u64 = 64;
/// First port of the GPE0 block, as the FADT of this board has it.
pub const GPE_BASE: u64 = 0xafe0;
/// Ports of the GPE0 block: two of status, two of enables.
pub const GPE_LEN: u64 = 4;
/// Ports of the SMBus block. The data sheet's controller decodes 16.
pub(super) const SMBUS_LEN: u64 = 16;
/// APM control and status ports (82371AB, 4.2.6).
pub(super) const APM_BASE: u64 = 0xb2;

/// Written to APM control: hand the fixed hardware to the operating system.
pub(super) const ACPI_ENABLE: u8 = 0xf1;
/// Written to APM control: take it back.
pub(super) const ACPI_DISABLE: u8 = 0xf0;

/// Offsets in configuration space.
pub(super) mod cfg {
    /// PMBA: base of the PM block, 16 bits.
    pub(crate) const PM_BASE: u8 = 0x40;
    /// DEVACTA: device activity, remembered only.
    pub(crate) const DEVICE_ACTIVITY: u8 = 0x54;
    /// DEVACTB: more of it (82371AB, 7.2.9).
    pub(crate) const DEVICE_ACTIVITY_B: u8 = 0x58;
    /// DEVACTB bit 25, APMC_EN: writes to APM control raise a system management interrupt.
    pub(crate) const APM_CONTROL_ENABLE: u32 = 1 << 25;
    /// PMREGMISC: bit 0 enables the PM block.
    pub(crate) const PM_ENABLE: u8 = 0x80;
    /// SMBBA: base of the SMBus block, 16 bits.
    pub(crate) const SMBUS_BASE: u8 = 0x90;
    /// SMBHSTCFG: bit 0 enables the SMBus block.
    pub(crate) const SMBUS_CONFIG: u8 = 0xd2;
}

/// Offsets in the PM block.
pub(super) mod pm {
    /// PM1a status, 16 bits.
    pub(crate) const STATUS: u64 = 0;
    /// PM1a enable, 16 bits.
    pub(crate) const ENABLE: u64 = 2;
    /// PM1a control, 16 bits.
    pub(crate) const CONTROL: u64 = 4;
    /// PM timer, 32 bits.
    pub(crate) const TIMER: u64 = 8;
}

/// Bits of PM1a status and enable.
pub(super) mod event {
    /// The timer's top bit changed.
    pub(crate) const TIMER: u16 = 1 << 0;
    /// Firmware releases the global lock.
    pub(crate) const GLOBAL: u16 = 1 << 5;
    /// Power button.
    pub(crate) const POWER_BUTTON: u16 = 1 << 8;
    /// Real-time clock alarm.
    pub(crate) const RTC: u16 = 1 << 10;
    /// Woken from sleep; status only.
    pub(crate) const WAKE: u16 = 1 << 15;
    /// Those that raise the system control interrupt.
    pub(crate) const INTERRUPTING: u16 = TIMER | GLOBAL | POWER_BUTTON | RTC;
}

/// Bits of PM1a control.
pub(super) mod sleep {
    /// The operating system has the fixed hardware.
    pub(crate) const SCI_ENABLE: u16 = 1 << 0;
    /// Enter the sleep state of the type bits.
    pub(crate) const ENABLE: u16 = 1 << 13;
    /// Where the three bits of sleep type begin.
    pub(crate) const TYPE_SHIFT: u16 = 10;
    /// Soft off.
    pub(crate) const S5: u16 = 0;
    /// Suspend to RAM.
    pub(crate) const S3: u16 = 1;
}
