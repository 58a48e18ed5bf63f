//! Booting without firmware: a kernel and its companions are put into memory, and the first processor enters them.
//!
//! ```text
//! Images::open   files opened once, identified, refused in one sentence
//!      │
//! Images::load   may be repeated, for a guest's reboot
//!      │  bzimage ── unpack ── elf        Linux: payload unpacked on the host, or left to the guest
//!      │  elf ── pvh | zero_page          ELF: by its PVH note, or at Linux' 64-bit entry
//!      │  multiboot                       multiboot v1
//!      ▼
//!   Loaded        EntryState for the first processor
//! ```
//!
//! All sizes and addresses found in files are untrusted: each is bound by the guest's memory, which bounds time too.
//! This module knows neither KVM's file descriptors nor the machine; guest memory must not be in use by processors or
//! devices while something is loaded.

use std::path::Path;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::entry::EntryState;
use super::layout::MemoryLayout;

mod bzimage;
mod direct;
mod elf;
mod error;
mod files;
pub mod handover;
mod identify;
mod multiboot;
mod pvh;
mod unpack;
mod zero_page;

#[cfg(test)]
mod tests;

pub use elf::ElfError;
pub use error::BootError;
pub use multiboot::MultibootError;
pub use unpack::UnpackError;

use files::Opened;
use identify::Kind;

/// Who unpacks a compressed bzImage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unpack {
    /// The host where it knows the payload, else the guest.
    #[default]
    Auto,
    /// The host; a payload it cannot unpack is an error. The kernel runs at the address it was linked for: no KASLR.
    Host,
    /// The guest, by the kernel's own decompressor, with KASLR if the kernel has it.
    Guest,
}

/// Which entry of an ELF kernel is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ElfEntry {
    /// The PVH entry where the image has the note, else Linux' 64-bit entry.
    #[default]
    Auto,
    /// The entry named by the PVH note; without one, an error.
    Pvh,
    /// The ELF entry point by Linux' 64-bit boot protocol.
    Linux64,
}

/// What a kernel is loaded with.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The guest's memory map.
    pub layout: &'a MemoryLayout,
    /// The kernel command line, without terminator.
    pub cmdline: &'a str,
    /// Where the ACPI root pointer was put.
    pub rsdp: Option<GuestAddress>,
    /// Who unpacks a compressed kernel.
    pub unpack: Unpack,
    /// How an ELF kernel is entered.
    pub elf_entry: ElfEntry,
    /// Guest memory reads as zero because nothing has run in it yet: it need not be cleared.
    pub fresh_memory: bool,
    /// The machine has a VGA adapter in text mode; otherwise Linux is told that there is none.
    pub vga_text: bool,
}

impl<'a> Options<'a> {
    /// Everything by default for a machine with this memory.
    pub fn new(layout: &'a MemoryLayout, cmdline: &'a str) -> Self {
        Self {
            layout,
            cmdline,
            rsdp: None,
            unpack: Unpack::Auto,
            elf_entry: ElfEntry::Auto,
            fresh_memory: false,
            vga_text: false,
        }
    }
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// How the first processor begins; see [`EntryState::registers`].
    pub entry: EntryState,
    /// What was loaded and how, for the log: "bzImage, lz4 payload unpacked on the host".
    pub description: String,
}

/// The files of a direct boot, open and identified.
#[derive(Debug)]
pub struct Images {
    kernel: Opened,
    kind: Kind,
    modules: Vec<Opened>,
}

impl Images {
    /// Opens the kernel and what `-initrd` names.
    ///
    /// `initrd` is one path; for a multiboot kernel it is a list `path arguments,path arguments`, in which `,,` stands
    /// for a comma.
    ///
    /// # Errors
    /// A file cannot be opened or is not regular; the kernel is of a kind that cannot be booted.
    pub fn open(kernel: &Path, initrd: Option<&str>) -> Result<Self, BootError> {
        let kernel = Opened::open("kernel", kernel)?;
        let kind = identify::identify(&kernel)?;
        let modules = match (&kind, initrd) {
            (_, None) => Vec::new(),
            (Kind::Multiboot(_), Some(list)) => multiboot::open_modules(list)?,
            (_, Some(path)) => vec![Opened::open("initrd", Path::new(path))?],
        };
        Ok(Self { kernel, kind, modules })
    }

    /// Puts everything into guest memory.
    ///
    /// No processor may run and no device may use the memory meanwhile. It may be called again after a reset, with
    /// [`Options::fresh_memory`] off.
    ///
    /// # Errors
    /// A file has become unreadable, was changed, or is broken inside; something does not fit the guest's memory.
    pub fn load<M: GuestMemoryBackend>(&self, mem: &M, options: &Options<'_>) -> Result<Loaded, BootError> {
        [&self.kernel].into_iter().chain(&self.modules).try_for_each(Opened::check_unchanged)?;
        match &self.kind {
            Kind::BzImage(header) => bzimage::load(mem, &self.kernel, header, self.modules.first(), options),
            Kind::Elf(image) => elf::load(mem, &self.kernel, image, self.modules.first(), options),
            Kind::Multiboot(header) => multiboot::load(mem, &self.kernel, header, &self.modules, options),
        }
    }
}
