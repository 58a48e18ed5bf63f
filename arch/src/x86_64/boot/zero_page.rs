//! Linux' zero page (`boot_params`): Documentation/arch/x86/{boot,zero-page}.rst of the kernel.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::files::{self, Opened};
use super::{BootError, Options};

/// Where the zero page is written.
pub(super) const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Where the command line is written, up to [`CMDLINE_SPACE`] bytes with its terminator.
pub(super) const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Bytes reserved for the command line.
pub(super) const CMDLINE_SPACE: usize = 0x1_0000;

/// "Undefined" in the boot protocol's list of loaders: Rhea has no number of its own.
pub(super) const LOADER_UNDEFINED: u8 = 0xff;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const BOOT_FLAG: u16 = 0xaa55;
const LOADED_HIGH: u8 = 1 << 0;
const CAN_USE_HEAP: u8 = 1 << 7;
/// Set by the kernel's decompressor when it chose an address; nobody did here.
const KASLR_FLAG: u8 = 1 << 1;
/// From here on the high halves of 64-bit addresses are read from the zero page.
const PROTOCOL_2_12: u16 = 0x020c;
/// COMMAND_LINE_SIZE of x86 since 2.6.26, without the terminator: the limit where no header names one.
const CMDLINE_LIMIT: u32 = 2047;

/// The initrd limit of kernels that are entered by the 64-bit protocol and have no header: all of memory.
pub(super) const NO_LIMIT: u64 = u64::MAX;

/// A setup header for an ELF kernel, which has none.
pub(super) fn synthetic_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL_2_12,
        loadflags: LOADED_HIGH,
        cmdline_size: CMDLINE_LIMIT,
        ..Default::default()
    }
}

/// Writes the initrd, the command line and the zero page, and gives the zero page's address.
///
/// `header` is the kernel's own; what a loader fills in is filled in here. `initrd_limit` is exclusive.
pub(super) fn write<M: GuestMemoryBackend>(
    mem: &M,
    mut header: setup_header,
    initrd: Option<&Opened>,
    kernel_end: u64,
    initrd_limit: u64,
    options: &Options<'_>,
) -> Result<GuestAddress, BootError> {
    let mut params = boot_params::default();
    let limit = (header.cmdline_size as usize).min(CMDLINE_SPACE - 1);
    files::write(mem, "the command line", &files::terminated(options.cmdline, limit)?, CMDLINE)?;
    header.cmd_line_ptr = CMDLINE.0 as u32;
    header.type_of_loader = LOADER_UNDEFINED;
    header.loadflags &= !(KASLR_FLAG | CAN_USE_HEAP);
    if let Some(initrd) = initrd.filter(|initrd| initrd.len > 0) {
        let at = files::load_initrd(mem, initrd, options.layout, kernel_end, initrd_limit, options.fresh_memory)?.0;
        header.ramdisk_image = at as u32;
        header.ramdisk_size = initrd.len as u32;
        params.ext_ramdisk_image = (at >> 32) as u32;
        params.ext_ramdisk_size = (initrd.len >> 32) as u32;
    }
    params.hdr = header;
    params.acpi_rsdp_addr = options.rsdp.map_or(0, |at| at.0);
    set_screen(&mut params, options.vga_text);
    set_memory_map(&mut params, options);
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, ZERO_PAGE), mem).map_err(|_| {
        BootError::DoesNotFit { what: "the zero page", start: ZERO_PAGE.0, size: size_of::<boot_params>() as u64 }
    })?;
    Ok(ZERO_PAGE)
}

/// Describes the display: 80 by 25 text, or zero columns and lines, at which Linux takes its dummy console.
fn set_screen(params: &mut boot_params, vga_text: bool) {
    if !vga_text {
        return;
    }
    params.screen_info.orig_video_mode = 3;
    params.screen_info.orig_video_cols = 80;
    params.screen_info.orig_video_lines = 25;
    params.screen_info.orig_video_ega_bx = 3;
    params.screen_info.orig_video_points = 16;
    // `orig_video_isVGA`: a VGA in text mode.
    params.screen_info.flags = 1;
}

fn set_memory_map(params: &mut boot_params, options: &Options<'_>) {
    let map = options.layout.e820();
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.size, r#type: entry.kind as u32 };
    }
    // The layout has at most seven ranges, the table 128 places.
    params.e820_entries = map.len() as u8;
}
