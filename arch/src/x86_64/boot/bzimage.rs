//! Linux bzImages: Documentation/arch/x86/boot.rst of the kernel, protocol 2.06 and later.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend};

use super::files::{self, Opened};
use super::{BootError, Loaded, Options, Unpack, unpack, zero_page};
use crate::x86_64::entry::EntryState;
use crate::x86_64::layout::HIGH_MEMORY_START;

/// Where the setup header begins in the file, and where its magic lies.
const HEADER_START: usize = 0x1f1;
const MAGIC_START: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// The second byte of the jump over the header tells where the header ends.
const JUMP_OFFSET: usize = 0x201;

const OLDEST_PROTOCOL: u16 = 0x0206;
/// `payload_offset` and `payload_length` exist from here on.
const PROTOCOL_2_08: u16 = 0x0208;
/// `pref_address` and `init_size` exist from here on.
const PROTOCOL_2_10: u16 = 0x020a;
/// `xloadflags` exists from here on.
const PROTOCOL_2_12: u16 = 0x020c;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// The 64-bit entry lies this far behind the 32-bit one.
const ENTRY_64_OFFSET: u64 = 0x200;
const SECTOR: u64 = 512;

/// The setup header of a bzImage and where its parts lie in the file, checked against the file's length.
#[derive(Debug)]
pub(super) struct SetupHeader {
    raw: setup_header,
    /// The protected-mode part.
    code_start: u64,
    code_size: u64,
    /// The compressed kernel within the file, if the header tells.
    pub(super) payload: Option<(u64, u64)>,
}

/// Whether the file's head carries a Linux setup header of any version.
pub(super) fn is_linux(head: &[u8]) -> bool {
    head.get(MAGIC_START..).is_some_and(|rest| rest.starts_with(MAGIC))
}

impl SetupHeader {
    /// Takes the header from a file's head; the error says what the file is instead.
    pub(super) fn parse(head: &[u8], file_len: u64) -> Result<Self, String> {
        let mut raw = setup_header::default();
        let space = raw.as_mut_slice();
        // What lies behind the header's end is the start of setup's code.
        let end = MAGIC_START + usize::from(head.get(JUMP_OFFSET).copied().unwrap_or(0));
        let bytes = head.get(HEADER_START..end.min(HEADER_START + space.len())).unwrap_or_default();
        space[..bytes.len()].copy_from_slice(bytes);
        let version = raw.version;
        let protocol = format!("{}.{:02}", version >> 8, version & 0xff);
        if version < OLDEST_PROTOCOL {
            return Err(format!("a Linux kernel of boot protocol {protocol}"));
        }
        if raw.loadflags & LOADED_HIGH == 0 {
            return Err("a Linux zImage, which is loaded below 1 MiB".into());
        }
        let sectors = if raw.setup_sects == 0 { 4 } else { u64::from(raw.setup_sects) };
        let code_start = (sectors + 1) * SECTOR;
        let rest = file_len.saturating_sub(code_start);
        // A signature may follow the code; an old header's `syssize` may be too small a field, but is never zero.
        let code_size = rest.min(u64::from(raw.syssize) * 16);
        if code_size == 0 {
            return Err("a truncated Linux bzImage".into());
        }
        let mut header = Self { raw, code_start, code_size, payload: None };
        header.payload = header.find_payload();
        Ok(header)
    }

    fn find_payload(&self) -> Option<(u64, u64)> {
        let (offset, length) = (u64::from(self.raw.payload_offset), u64::from(self.raw.payload_length));
        let inside = offset + length <= self.code_size;
        (self.raw.version >= PROTOCOL_2_08 && length > 0 && inside).then_some((self.code_start + offset, length))
    }

    fn xloadflags(&self) -> u16 {
        if self.raw.version >= PROTOCOL_2_12 { self.raw.xloadflags } else { 0 }
    }

    /// The kernel has no entry but that of its real-mode part, which wants a BIOS: its header leaves `code32_start`, which
    /// Linux sets, at zero, as iPXE does.
    pub(super) fn is_real_mode(&self) -> bool {
        self.raw.code32_start == 0
    }

    /// The kernel is a 64-bit one with a 64-bit entry.
    pub(super) fn is_64(&self) -> bool {
        self.xloadflags() & XLF_KERNEL_64 != 0
    }

    /// Where the kernel wants to run, and the memory it needs from there until it knows the memory map.
    pub(super) fn run_range(&self) -> (u64, u64) {
        if self.raw.version >= PROTOCOL_2_10 && self.raw.pref_address >= HIGH_MEMORY_START {
            (self.raw.pref_address, u64::from(self.raw.init_size).max(self.code_size))
        } else {
            (HIGH_MEMORY_START, self.code_size)
        }
    }

    /// The protected-mode part's first byte in the file, and its length.
    pub(super) fn code(&self) -> (u64, u64) {
        (self.code_start, self.code_size)
    }

    /// Longest command line, without its terminator.
    pub(super) fn cmdline_limit(&self) -> usize {
        self.raw.cmdline_size as usize
    }

    /// Highest address of an initrd, exclusive, for a kernel that starts in its real-mode part.
    pub(super) fn initrd_limit_32(&self) -> u64 {
        u64::from(self.raw.initrd_addr_max) + 1
    }

    /// Highest address of an initrd, exclusive.
    fn initrd_limit(&self) -> u64 {
        if self.is_64() && self.xloadflags() & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
            return zero_page::NO_LIMIT;
        }
        self.initrd_limit_32()
    }
}

/// Loads a bzImage: unpacked, or as it is with the guest left to unpack it.
pub(super) fn load<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    header: &SetupHeader,
    initrd: Option<&Opened>,
    options: &Options<'_>,
) -> Result<Loaded, BootError> {
    let (start, size) = header.run_range();
    files::check_range(mem, "the kernel", start, size)?;
    let mut options = *options;
    let (entry, end, description) = match unpacked(mem, kernel, header, &options)? {
        Ok(unpacked) => {
            let description = format!("bzImage, {} payload unpacked on the host", unpacked.packing);
            (Some(unpacked.entry), unpacked.end, description)
        }
        Err(why) => {
            // An attempt to unpack may have left bytes in memory.
            options.fresh_memory &= options.unpack == Unpack::Guest;
            kernel.load(mem, header.code_start, GuestAddress(start), header.code_size, options.fresh_memory)?;
            (None, start + size, format!("bzImage, unpacked by the guest ({why})"))
        }
    };
    let page = zero_page::write(mem, filled(header, start), initrd, end, header.initrd_limit(), &options)?;
    let entry = match entry {
        Some(rip) => EntryState::Linux64 { rip, rsi: page.0 },
        None if header.is_64() => EntryState::Linux64 { rip: start + ENTRY_64_OFFSET, rsi: page.0 },
        None => EntryState::Protected32 { eip: start as u32, eax: 0, ebx: 0, esi: page.0 as u32 },
    };
    Ok(Loaded { entry, description })
}

/// The header with the fields a loader writes that depend on where the kernel is.
fn filled(header: &SetupHeader, start: u64) -> setup_header {
    setup_header { code32_start: start as u32, ..header.raw }
}

/// Unpacks on the host if that was asked for or can be; the inner error says why the guest has to do it.
fn unpacked<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    header: &SetupHeader,
    options: &Options<'_>,
) -> Result<Result<unpack::Unpacked, String>, BootError> {
    if options.unpack == Unpack::Guest {
        return Ok(Err("as asked for".into()));
    }
    match unpack::unpack_kernel(mem, kernel, header, options) {
        Ok(unpacked) => Ok(Ok(unpacked)),
        Err(source) if options.unpack == Unpack::Host => Err(BootError::Unpack { path: kernel.path.clone(), source }),
        Err(source) => Ok(Err(source.to_string())),
    }
}
