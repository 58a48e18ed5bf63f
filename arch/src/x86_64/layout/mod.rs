//! Where everything lies in the guest's physical address space and port space on the `pc` machine.
//!
//! ```text
//! 0x0000_0000  conventional memory      640 KiB, of which the last 1 KiB is the EBDA
//! 0x000a_0000  VGA window               128 KiB
//! 0x000c_0000  option ROMs              128 KiB
//! 0x000e_0000  BIOS area                128 KiB: firmware, or the tables of a direct boot
//! 0x0010_0000  memory below 4 GiB       up to 3 GiB or 3.5 GiB
//!  below_4g    32-bit PCI window        up to the I/O APIC
//! 0xfec0_0000  I/O APIC, 0xfee0_0000 local APIC, 0xfeff_c000 KVM's own pages
//! 0x1_0000_0000 memory above 4 GiB
//!  above       64-bit PCI window
//! ```
//!
//! The map is QEMU's for i440FX, because guests, scripts and saved machines know it. This module computes; it
//! allocates nothing and touches no memory.

use std::ops::Range;

use vm_memory::GuestAddress;

#[cfg(test)]
mod tests;

/// First byte of the extended BIOS data area, the end of usable conventional memory.
pub const EBDA_START: u64 = 0x9_fc00;
/// First byte of the VGA window; memory below it is conventional.
pub const VGA_WINDOW_START: u64 = 0xa_0000;
/// First byte of the option ROM area.
pub const OPTION_ROM_START: u64 = 0xc_0000;
/// First byte of the BIOS area when a direct boot puts its tables there.
pub const BIOS_AREA_START: u64 = 0xe_0000;
/// First byte of the segment in which anchors of SMBIOS and ACPI are searched (SMBIOS 3.2, 5.2.1).
pub const BIOS_SEGMENT_START: u64 = 0xf_0000;
/// Where a direct boot puts the ACPI tables, the root pointer first.
pub const ACPI_AREA: Range<u64> = BIOS_AREA_START..BIOS_SEGMENT_START;
/// Where a direct boot puts the SMBIOS tables, the anchor first.
pub const SMBIOS_AREA: Range<u64> = BIOS_SEGMENT_START..HIGH_MEMORY_START;
/// First byte of extended memory, where kernels are loaded.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// I/O APIC registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC_START: u64 = 0xfee0_0000;
/// Where KVM keeps its identity-mapped page table; below the largest firmware (16 MiB), as in QEMU.
pub const KVM_IDENTITY_MAP_START: u64 = 0xfeff_c000;
/// Where KVM keeps its three-page task state segment, directly behind the identity map.
pub const KVM_TSS_START: u64 = KVM_IDENTITY_MAP_START + PAGE_SIZE;
/// First byte after the pages KVM keeps for itself.
pub const KVM_PAGES_END: u64 = KVM_IDENTITY_MAP_START + 4 * PAGE_SIZE;
/// First byte of the firmware ROM's usual place (256 KiB below 4 GiB).
pub const FIRMWARE_START: u64 = 0xfffc_0000;

/// First byte above the 32-bit address space.
pub const FOUR_GIB: u64 = 1 << 32;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

const ONE_GIB: u64 = 1 << 30;
/// From this much memory on, the part below 4 GiB is [`SPLIT_BELOW_4G`].
const SPLIT_FROM: u64 = 0xe000_0000;
const SPLIT_BELOW_4G: u64 = 0xc000_0000;
/// QEMU's default for `pci-hole64-size` on i440FX.
const DEFAULT_PCI_WINDOW_64: u64 = 2 * ONE_GIB;
/// The least guest that any boot protocol here can use.
const LEAST_RAM: u64 = HIGH_MEMORY_START;

/// Port numbers of the power-management function and the ACPI general-purpose blocks, as QEMU's `pc` has them.
pub mod ports {
    /// PIIX4 power-management base (PMBA): PM1 event block here, control at +4, timer at +8.
    pub const PM_BASE: u16 = 0x600;
    /// PIIX4 SMBus base.
    pub const SMBUS_BASE: u16 = 0x700;
    /// ACPI PCI hot-plug registers.
    pub const PCI_HOTPLUG: u16 = 0xae00;
    /// Bytes of ACPI PCI hot-plug registers.
    pub const PCI_HOTPLUG_LEN: u16 = 0x18;
    /// ACPI processor hot-plug registers.
    pub const CPU_HOTPLUG: u16 = 0xaf00;
    /// Bytes of ACPI processor hot-plug registers.
    pub const CPU_HOTPLUG_LEN: u16 = 12;
    /// General-purpose event block 0: two status and two enable bytes.
    pub const GPE0: u16 = 0xafe0;
    /// Bytes of general-purpose event block 0.
    pub const GPE0_LEN: u8 = 4;
    /// PCI configuration mechanism #1, address register.
    pub const PCI_CONFIG_ADDRESS: u16 = 0xcf8;
    /// Reset control register of the PIIX3.
    pub const RESET_CONTROL: u16 = 0xcf9;
    /// fw_cfg selector and data.
    pub const FW_CFG: u16 = 0x510;
    /// pvpanic event register.
    pub const PVPANIC: u16 = 0x505;
}

/// Memory sizes that cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Less than 1 MiB.
    #[error("{0} bytes of memory are fewer than a PC needs (1 MiB)")]
    TooSmall(u64),
    /// Not whole pages.
    #[error("a memory size of {0} bytes is not a multiple of 4096")]
    Unaligned(u64),
    /// Memory or the PCI window behind it would pass the guest's physical address width.
    #[error("{ram} bytes of memory do not fit a physical address space of {bits} bits")]
    PastAddressWidth {
        /// Memory asked for.
        ram: u64,
        /// Physical address bits of the guest's processor.
        bits: u8,
    },
}

/// The kinds of memory a boot protocol reports to an operating system (ACPI 6.5, 15.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum E820Kind {
    /// Usable memory.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// One range of the memory map handed to an operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E820Entry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What lies there.
    pub kind: E820Kind,
}

impl E820Entry {
    fn new(range: Range<u64>, kind: E820Kind) -> Self {
        Self { start: range.start, size: range.end - range.start, kind }
    }
}

/// A part of memory that one of several owners has: a memory backend, a NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which owner.
    pub owner: usize,
    /// Where it begins in the owner's memory.
    pub offset: u64,
    /// Its guest addresses.
    pub range: Range<u64>,
}

/// The division of a guest's memory around the hole below 4 GiB, and the PCI windows beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLayout {
    ram: u64,
    below_4g: u64,
    pci_window_64: Range<u64>,
}

impl MemoryLayout {
    /// Lays out `ram` bytes for a processor with `phys_bits` physical address bits.
    ///
    /// As QEMU does for i440FX: all memory below 4 GiB while it is less than 3.5 GiB; from there on 3 GiB below and
    /// the rest above. The 64-bit PCI window begins on the next GiB after the memory and has 2 GiB, or what the
    /// address width leaves.
    ///
    /// # Errors
    /// Sizes below 1 MiB, that are not whole pages, or that pass the address width.
    pub fn new(ram: u64, phys_bits: u8) -> Result<Self, LayoutError> {
        if ram < LEAST_RAM {
            return Err(LayoutError::TooSmall(ram));
        }
        if !ram.is_multiple_of(PAGE_SIZE) {
            return Err(LayoutError::Unaligned(ram));
        }
        let below_4g = if ram >= SPLIT_FROM { SPLIT_BELOW_4G } else { ram };
        let limit = 1u64 << phys_bits.min(52);
        let too_wide = LayoutError::PastAddressWidth { ram, bits: phys_bits };
        let end = FOUR_GIB.checked_add(ram - below_4g).ok_or(too_wide)?;
        if end > limit.max(FOUR_GIB) {
            return Err(too_wide);
        }
        let window_start = end.checked_next_multiple_of(ONE_GIB).ok_or(too_wide)?.min(limit.max(end));
        let window_end = window_start.saturating_add(DEFAULT_PCI_WINDOW_64).min(limit.max(window_start));
        Ok(Self { ram, below_4g, pci_window_64: window_start..window_end })
    }

    /// All memory, in bytes.
    pub fn ram(&self) -> u64 {
        self.ram
    }

    /// Memory below 4 GiB, in bytes; also its end address.
    pub fn below_4g(&self) -> u64 {
        self.below_4g
    }

    /// Memory from 4 GiB on, in bytes; zero when there is none.
    pub fn above_4g(&self) -> u64 {
        self.ram - self.below_4g
    }

    /// The address ranges that memory occupies, in ascending order: one, or two with memory above 4 GiB.
    ///
    /// Offset 0 of the guest's memory lies at the first range's start and continues in the second.
    pub fn ram_ranges(&self) -> Vec<(GuestAddress, u64)> {
        let mut ranges = vec![(GuestAddress(0), self.below_4g)];
        if self.above_4g() > 0 {
            ranges.push((GuestAddress(FOUR_GIB), self.above_4g()));
        }
        ranges
    }

    /// Deals memory out in ascending order to owners of these sizes in bytes, together [`MemoryLayout::ram`].
    ///
    /// Each share is contiguous in the guest and in its owner's memory. An owner of nothing gets none.
    pub fn deal(&self, sizes: &[u64]) -> Vec<Share> {
        let mut shares = Vec::new();
        let mut owners = sizes.iter().enumerate().map(|(owner, size)| (owner, 0, *size));
        let mut current = owners.next();
        for (start, size) in self.ram_ranges() {
            let mut range = start.0..start.0 + size;
            while let Some((owner, offset, left)) = current.filter(|_| !range.is_empty()) {
                let taken = left.min(range.end - range.start);
                if taken > 0 {
                    shares.push(Share { owner, offset, range: range.start..range.start + taken });
                }
                range.start += taken;
                current = if left > taken { Some((owner, offset + taken, left - taken)) } else { owners.next() };
            }
        }
        shares
    }

    /// Addresses for 32-bit memory BARs: from the end of memory to the I/O APIC.
    pub fn pci_window_32(&self) -> Range<u64> {
        self.below_4g..IOAPIC_START
    }

    /// Addresses for 64-bit memory BARs; empty when the processor's address width leaves none.
    pub fn pci_window_64(&self) -> Range<u64> {
        self.pci_window_64.clone()
    }

    /// The memory map for an operating system that is booted without firmware, in ascending order.
    ///
    /// As SeaBIOS reports it for QEMU's `pc`, except that the whole BIOS area from 0xe0000 is reserved: a direct boot
    /// keeps the ACPI and SMBIOS tables there.
    pub fn e820(&self) -> Vec<E820Entry> {
        let mut map = vec![
            E820Entry::new(0..EBDA_START, E820Kind::Ram),
            E820Entry::new(EBDA_START..VGA_WINDOW_START, E820Kind::Reserved),
            E820Entry::new(BIOS_AREA_START..HIGH_MEMORY_START, E820Kind::Reserved),
        ];
        if self.below_4g > HIGH_MEMORY_START {
            map.push(E820Entry::new(HIGH_MEMORY_START..self.below_4g, E820Kind::Ram));
        }
        map.push(E820Entry::new(KVM_IDENTITY_MAP_START..KVM_PAGES_END, E820Kind::Reserved));
        map.push(E820Entry::new(FIRMWARE_START..FOUR_GIB, E820Kind::Reserved));
        if self.above_4g() > 0 {
            map.push(E820Entry::new(FOUR_GIB..FOUR_GIB + self.above_4g(), E820Kind::Ram));
        }
        map
    }
}
