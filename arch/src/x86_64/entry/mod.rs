//! The state in which the first processor enters what was loaded.
//!
//! Each boot protocol fixes a processor mode, a few registers, and the descriptor and page tables behind them. This
//! module turns an [`EntryState`] into register values, and writes the tables into low guest memory:
//!
//! ```text
//! 0x0500  GDT, 5 descriptors           0x9000  PML4
//! 0x6000  PVH start info               0xa000  PDPT
//! 0x7000  Linux zero page              0xb000  4 page directories, 2 MiB pages: 4 GiB mapped one to one
//! ```

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

#[cfg(test)]
mod tests;

/// Where the boot GDT is written.
pub const GDT_START: GuestAddress = GuestAddress(0x500);
/// Where the top-level page table is written; five more tables follow it.
pub const PAGE_TABLES_START: GuestAddress = GuestAddress(0x9000);
/// First byte after the page tables.
pub const PAGE_TABLES_END: GuestAddress = GuestAddress(0xf000);
/// Initial stack pointer, for kernels that push before they set their own.
const BOOT_STACK: u64 = 0x8ff0;

/// `__BOOT_CS` and `__BOOT_DS` of the Linux boot protocol; other protocols leave the selectors open.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts stay off.
const RFLAGS_RESERVED: u64 = 1 << 1;

const PTE_PRESENT: u64 = 1 << 0;
const PTE_WRITABLE: u64 = 1 << 1;
const PTE_LARGE: u64 = 1 << 7;

/// Accessed code and data descriptors, and a busy 32/64-bit TSS (Intel SDM volume 3, 3.4.5.1 and 3.5).
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_LDT: u8 = 0x2;
const TYPE_TSS_BUSY: u8 = 0xb;

/// How and where the first processor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// The architectural reset: real mode at the reset vector, 16 bytes below 4 GiB (Intel SDM volume 3, 10.1.4).
    RealModeReset,
    /// 32-bit protected mode, flat segments, paging off.
    Protected32 {
        /// First instruction.
        eip: u32,
        /// Multiboot: the loader's magic.
        eax: u32,
        /// PVH: the start info; multiboot: the boot information.
        ebx: u32,
        /// Linux: the zero page.
        esi: u32,
    },
    /// Linux' 64-bit entry: long mode, the first 4 GiB mapped one to one.
    Linux64 {
        /// First instruction.
        rip: u64,
        /// The zero page.
        rsi: u64,
    },
}

impl EntryState {
    /// Writes the tables this state needs into `mem` and gives the registers of the first processor.
    ///
    /// `sregs` is the processor's present state; what a boot protocol does not fix (the local APIC's base) stays.
    ///
    /// # Errors
    /// Guest memory does not reach over the tables (64 KiB suffice).
    pub fn registers<M: GuestMemoryBackend>(
        &self,
        mem: &M,
        sregs: &mut kvm_sregs,
    ) -> Result<kvm_regs, GuestMemoryError> {
        match *self {
            Self::RealModeReset => Ok(reset(sregs)),
            Self::Protected32 { eip, eax, ebx, esi } => {
                write_gdt(mem, false)?;
                protected(sregs);
                Ok(kvm_regs {
                    rip: eip.into(),
                    rax: eax.into(),
                    rbx: ebx.into(),
                    rsi: esi.into(),
                    rsp: BOOT_STACK,
                    rflags: RFLAGS_RESERVED,
                    ..Default::default()
                })
            }
            Self::Linux64 { rip, rsi } => {
                write_gdt(mem, true)?;
                write_page_tables(mem)?;
                long(sregs);
                Ok(kvm_regs { rip, rsi, rsp: BOOT_STACK, rflags: RFLAGS_RESERVED, ..Default::default() })
            }
        }
    }
}

fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { base: 0, limit: 0xffff_ffff, selector, type_, present: 1, db: 1, s: 1, g: 1, ..Default::default() }
}

fn task() -> kvm_segment {
    kvm_segment { limit: 0x67, selector: TASK_SELECTOR, type_: TYPE_TSS_BUSY, present: 1, ..Default::default() }
}

fn set_segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
}

fn protected(sregs: &mut kvm_sregs) {
    set_segments(sregs, flat(CODE_SELECTOR, TYPE_CODE), flat(DATA_SELECTOR, TYPE_DATA));
    set_tables(sregs);
    sregs.cr0 = CR0_PE | CR0_ET;
    (sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0, 0);
}

fn long(sregs: &mut kvm_sregs) {
    let code = kvm_segment { l: 1, db: 0, ..flat(CODE_SELECTOR, TYPE_CODE) };
    set_segments(sregs, code, flat(DATA_SELECTOR, TYPE_DATA));
    set_tables(sregs);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr2 = 0;
    sregs.cr3 = PAGE_TABLES_START.0;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

fn set_tables(sregs: &mut kvm_sregs) {
    sregs.tr = task();
    sregs.ldt = kvm_segment { type_: TYPE_LDT, present: 1, ..Default::default() };
    sregs.gdt = kvm_dtable { base: GDT_START.0, limit: GDT_LIMIT, ..Default::default() };
    sregs.idt = kvm_dtable { base: 0, limit: 0, ..Default::default() };
    sregs.interrupt_bitmap = [0; 4];
    sregs.cr8 = 0;
}

fn reset(sregs: &mut kvm_sregs) -> kvm_regs {
    let real = |type_| kvm_segment { limit: 0xffff, type_, present: 1, s: 1, ..Default::default() };
    let code = kvm_segment { base: 0xffff_0000, selector: 0xf000, ..real(TYPE_CODE) };
    set_segments(sregs, code, real(TYPE_DATA));
    sregs.tr = kvm_segment { s: 0, ..real(TYPE_TSS_BUSY) };
    sregs.ldt = kvm_segment { s: 0, ..real(TYPE_LDT) };
    sregs.gdt = kvm_dtable { base: 0, limit: 0xffff, ..Default::default() };
    sregs.idt = sregs.gdt;
    sregs.cr0 = CR0_CD | CR0_NW | CR0_ET;
    (sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer) = (0, 0, 0, 0, 0);
    sregs.interrupt_bitmap = [0; 4];
    kvm_regs { rip: 0xfff0, rflags: RFLAGS_RESERVED, ..Default::default() }
}

const GDT_LIMIT: u16 = 5 * 8 - 1;

/// Null, unused, code, data, task: the selectors above (Intel SDM volume 3, 3.4.5).
fn write_gdt<M: GuestMemoryBackend>(mem: &M, long: bool) -> Result<(), GuestMemoryError> {
    const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
    const CODE_64: u64 = 0x00af_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    const TASK: u64 = 0x0000_8b00_0000_0067;
    let gdt = [0, 0, if long { CODE_64 } else { CODE_32 }, DATA, TASK];
    write_entries(mem, GDT_START.0, gdt.into_iter())
}

/// Maps the first 4 GiB one to one with 2 MiB pages, which every 64-bit processor has.
fn write_page_tables<M: GuestMemoryBackend>(mem: &M) -> Result<(), GuestMemoryError> {
    const TABLE: u64 = 0x1000;
    const DIRECTORIES: u64 = 4;
    const ENTRIES: u64 = 512;
    let pml4 = PAGE_TABLES_START.0;
    let pdpt = pml4 + TABLE;
    let directories = pdpt + TABLE;
    let link = PTE_PRESENT | PTE_WRITABLE;
    let padded = |used: Vec<u64>| used.into_iter().chain(std::iter::repeat(0)).take(ENTRIES as usize);
    write_entries(mem, pml4, padded(vec![pdpt | link]))?;
    write_entries(mem, pdpt, padded((0..DIRECTORIES).map(|n| (directories + n * TABLE) | link).collect()))?;
    write_entries(mem, directories, (0..DIRECTORIES * ENTRIES).map(|n| (n << 21) | link | PTE_LARGE))
}

fn write_entries<M: GuestMemoryBackend>(
    mem: &M,
    start: u64,
    entries: impl Iterator<Item = u64>,
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
    mem.write_slice(&bytes, GuestAddress(start))
}
