//! Where things lie in the function's BARs and configuration space (section 4.1.4), as QEMU's devices have them, so
//! that what a guest remembers of a machine stays true.

use crate::pci::config::{Bar, BarKind, ConfigError, ConfigSpace, Identity as PciIdentity};
use crate::virtio::device::Identity;
use crate::virtio::features::device_type;

/// Red Hat's vendor ID, which all virtio devices carry (section 4.1.2).
const VENDOR: u16 = 0x1af4;
/// Device ID of a modern device of type 0 (section 4.1.2.1).
const MODERN_DEVICE: u16 = 0x1040;
/// Subsystem ID of a device that is modern only; without meaning (section 4.1.2.1), the one QEMU shows.
const MODERN_SUBSYSTEM: u16 = 0x1100;

/// BAR of the legacy interface.
pub(super) const LEGACY_BAR: u8 = 0;
/// BAR of the MSI-X table.
pub(super) const MSIX_BAR: u8 = 1;
/// BAR of the modern registers.
pub(super) const MODERN_BAR: u8 = 4;

/// Each part of the modern BAR has this many bytes of its own.
pub(super) const PART: u64 = 0x1000;
pub(super) const COMMON: u64 = 0;
pub(super) const ISR: u64 = PART;
pub(super) const DEVICE: u64 = 2 * PART;
pub(super) const NOTIFY: u64 = 3 * PART;
pub(super) const MODERN_LEN: u64 = 4 * PART;
/// Bytes between the notification addresses of neighbouring queues.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// Most queues that the notification part has room for.
pub(super) const MAX_QUEUES: usize = 1024;

const CAP_VENDOR: u8 = 0x09;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Which register interfaces a function has (section 4.1.2: "transitional" is both).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interfaces {
    /// The interface of virtio 0.9 in an I/O BAR.
    pub legacy: bool,
    /// The interface of virtio 1.
    pub modern: bool,
}

/// Bytes of the legacy header with and without the two vector registers (section 4.1.4.8).
pub(super) const LEGACY_HEADER: u64 = 20;
pub(super) const LEGACY_HEADER_MSIX: u64 = 24;

/// Size of the legacy BAR.
pub(super) fn legacy_len(identity: &Identity, msix: bool) -> u64 {
    let header = if msix { LEGACY_HEADER_MSIX } else { LEGACY_HEADER };
    (header + u64::from(identity.config_len)).next_power_of_two().max(32)
}

/// Device IDs of the types that existed before virtio 1 (section 4.1.2.1, table of transitional IDs).
fn transitional_id(device_type: u16) -> Option<u16> {
    Some(match device_type {
        device_type::NET => 0x1000,
        device_type::BLOCK => 0x1001,
        device_type::BALLOON => 0x1002,
        device_type::CONSOLE => 0x1003,
        device_type::SCSI => 0x1004,
        device_type::RNG => 0x1005,
        device_type::P9 => 0x1009,
        _ => return None,
    })
}

/// Whether devices of this type can have the legacy interface.
pub(super) fn can_be_legacy(device_type: u16) -> bool {
    transitional_id(device_type).is_some()
}

/// Header, BARs and virtio's capabilities, but not MSI-X. Returns the offset of the configuration access capability
/// too, which a legacy-only function does not have.
pub(super) fn config_space(
    identity: &Identity,
    interfaces: Interfaces,
    msix: bool,
) -> Result<(ConfigSpace, Option<u8>), ConfigError> {
    let transitional = transitional_id(identity.device_type).filter(|_| interfaces.legacy);
    let [class, subclass, interface] = identity.pci_class;
    let header = PciIdentity {
        vendor: VENDOR,
        device: transitional.unwrap_or(MODERN_DEVICE + identity.device_type),
        // Section 4.1.2.1: 0 for transitional, 1 or more for the others.
        revision: u8::from(transitional.is_none()),
        class: u32::from_be_bytes([0, class, subclass, interface]),
        subsystem_vendor: VENDOR,
        subsystem: if transitional.is_some() { identity.device_type } else { MODERN_SUBSYSTEM },
    };
    let mut space = ConfigSpace::type0(&header).with_interrupt_pin(1);
    if interfaces.legacy {
        space = space.with_bar(LEGACY_BAR, Bar { kind: BarKind::Io, size: legacy_len(identity, msix) })?;
    }
    if !interfaces.modern {
        return Ok((space, None));
    }
    space = space.with_bar(MODERN_BAR, Bar { kind: BarKind::Prefetchable64, size: MODERN_LEN })?;
    for (cfg_type, offset) in [(CFG_COMMON, COMMON), (CFG_ISR, ISR), (CFG_DEVICE, DEVICE)] {
        space.add_capability(CAP_VENDOR, &capability(cfg_type, offset), &[])?;
    }
    let mut notify = capability(CFG_NOTIFY, NOTIFY).to_vec();
    lengthen(&mut notify, NOTIFY_MULTIPLIER);
    space.add_capability(CAP_VENDOR, &notify, &[])?;
    let mut access = vec![0, CFG_PCI];
    access.resize(ACCESS_BODY, 0);
    lengthen(&mut access, 0);
    // BAR, then after three reserved bytes offset, length and the window are the driver's (section 4.1.4.9).
    let writable = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let at = space.add_capability(CAP_VENDOR, &access, &writable)?;
    Ok((space, Some(at)))
}

/// `struct virtio_pci_cap` (section 4.1.4) without its first two bytes.
const ACCESS_BODY: usize = 14;

fn capability(cfg_type: u8, offset: u64) -> [u8; ACCESS_BODY] {
    let [o0, o1, o2, o3, ..] = offset.to_le_bytes();
    let [l0, l1, l2, l3, ..] = PART.to_le_bytes();
    // Length of the capability, type, BAR, id, padding, offset, length.
    [16, cfg_type, MODERN_BAR, 0, 0, 0, o0, o1, o2, o3, l0, l1, l2, l3]
}

fn lengthen(body: &mut Vec<u8>, last: u32) {
    body.extend(last.to_le_bytes());
    if let Some(len) = body.first_mut() {
        *len = 20;
    }
}
