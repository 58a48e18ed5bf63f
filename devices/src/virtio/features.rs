//! Numbers that the transport and every device share: device types, feature bits, status bits.

/// Device types (section 5).
pub mod device_type {
    /// Network card.
    pub const NET: u16 = 1;
    /// Block device.
    pub const BLOCK: u16 = 2;
    /// Console.
    pub const CONSOLE: u16 = 3;
    /// Entropy device.
    pub const RNG: u16 = 4;
    /// Memory balloon of the old kind.
    pub const BALLOON: u16 = 5;
    /// SCSI host.
    pub const SCSI: u16 = 8;
    /// 9P file system.
    pub const P9: u16 = 9;
}

/// Legacy driver polls used buffers when it runs out (section 6.3, `VIRTIO_F_NOTIFY_ON_EMPTY`).
pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// Descriptor layout is arbitrary, told to legacy drivers (section 6.3).
pub const ANY_LAYOUT: u64 = 1 << 27;
/// Indirect descriptors (section 6).
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `used_event` and `avail_event` (section 6).
pub const EVENT_IDX: u64 = 1 << 29;
/// Not a legacy device (section 6).
pub const VERSION_1: u64 = 1 << 32;
/// A queue can be reset on its own (section 6).
pub const RING_RESET: u64 = 1 << 40;

/// Feature bits that belong to the device type (section 2.2): 0 to 23 and 50 to 127. The rest are the transport's.
pub const DEVICE_BITS: u64 = 0x00ff_ffff | !((1 << 50) - 1);

/// Device status bits (section 2.1).
pub mod status {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready: the device may act.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed upon.
    pub const FEATURES_OK: u8 = 8;
    /// The device is beyond repair until it is reset.
    pub const NEEDS_RESET: u8 = 0x40;
    /// The guest gave up.
    pub const FAILED: u8 = 0x80;
}
