//! The PVH boot protocol: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend};

use super::files::{self, Opened};
use super::zero_page::{CMDLINE, CMDLINE_SPACE};
use super::{BootError, Options};
use crate::x86_64::entry::EntryState;
use crate::x86_64::layout::FOUR_GIB;

const START_INFO: GuestAddress = GuestAddress(0x6000);
const MODULES: GuestAddress = GuestAddress(0x6080);
const MEMORY_MAP: GuestAddress = GuestAddress(0x6100);

/// "xEn3", with the high bit of the E set.
const START_MAGIC: u32 = 0x336e_c578;

/// Writes initrd, command line and start info; the processor enters at `entry`.
pub(super) fn enter<M: GuestMemoryBackend>(
    mem: &M,
    entry: u32,
    initrd: Option<&Opened>,
    kernel_end: u64,
    options: &Options<'_>,
) -> Result<EntryState, BootError> {
    files::write(mem, "the command line", &files::terminated(options.cmdline, CMDLINE_SPACE - 1)?, CMDLINE)?;
    let map: Vec<_> = options
        .layout
        .e820()
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.size,
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    let mut info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: CMDLINE.0,
        rsdp_paddr: options.rsdp.map_or(0, |at| at.0),
        memmap_paddr: MEMORY_MAP.0,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let module = match initrd.filter(|initrd| initrd.len > 0) {
        // Linux' PVH entry keeps only the lower half of a module's address.
        Some(initrd) => {
            let at = files::load_initrd(mem, initrd, options.layout, kernel_end, FOUR_GIB, options.fresh_memory)?;
            info.nr_modules = 1;
            info.modlist_paddr = MODULES.0;
            Some(hvm_modlist_entry { paddr: at.raw_value(), size: initrd.len, ..Default::default() })
        }
        None => None,
    };
    let mut params = BootParams::new(&info, START_INFO);
    params.set_sections(&map, MEMORY_MAP);
    if let Some(module) = module {
        params.set_modules(&[module], MODULES);
    }
    PvhBootConfigurator::write_bootparams(&params, mem).map_err(|_| BootError::DoesNotFit {
        what: "the PVH start info",
        start: START_INFO.0,
        size: size_of::<hvm_start_info>() as u64,
    })?;
    Ok(EntryState::Protected32 { eip: entry, eax: 0, ebx: START_INFO.0 as u32, esi: 0 })
}
