//! Small kernels, files and memories.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Memory of the guests here.
pub(in crate::x86_64::boot) const RAM: u64 = 64 << 20;
/// Where the bzImages here want to run.
pub(in crate::x86_64::boot) const RUN: u64 = 0x100_0000;
/// The memory they say they need.
const INIT_SIZE: u32 = 16 << 20;
const SETUP_SECTORS: usize = 1;
/// Where the payload lies in the protected-mode part.
const PAYLOAD: usize = 0x280;

pub(in crate::x86_64::boot) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap()
}

pub(in crate::x86_64::boot) fn read(mem: &GuestMemoryMmap, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

/// A directory with files of these contents.
pub(in crate::x86_64::boot) fn files(contents: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in contents {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

/// Numbers that look random and are the same in every run.
pub(in crate::x86_64::boot) fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A bzImage with this payload; 64-bit from protocol 2.12 on.
pub(in crate::x86_64::boot) fn bzimage(payload: &[u8], protocol: u16) -> Vec<u8> {
    let mut code = vec![0xc0; PAYLOAD];
    code.extend_from_slice(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    let mut file = vec![0; (SETUP_SECTORS + 1) * 512];
    let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[SETUP_SECTORS as u8]);
    set(0x1f4, &((code.len() / 16) as u32).to_le_bytes());
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    set(0x202, b"HdrS");
    set(0x206, &protocol.to_le_bytes());
    set(0x211, &[1]);
    set(0x214, &0x10_0000u32.to_le_bytes());
    set(0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(0x236, &3u16.to_le_bytes());
    set(0x238, &2047u32.to_le_bytes());
    set(0x248, &(PAYLOAD as u32).to_le_bytes());
    set(0x24c, &(payload.len() as u32).to_le_bytes());
    set(0x258, &RUN.to_le_bytes());
    set(0x260, &INIT_SIZE.to_le_bytes());
    file.extend_from_slice(&code);
    file
}

/// The protected-mode part of a bzImage made here.
pub(in crate::x86_64::boot) fn code_of(bzimage: &[u8]) -> &[u8] {
    &bzimage[(SETUP_SECTORS + 1) * 512..]
}

/// An ELF image.
pub(in crate::x86_64::boot) struct Elf {
    pub(in crate::x86_64::boot) is_64: bool,
    pub(in crate::x86_64::boot) machine: u16,
    pub(in crate::x86_64::boot) entry: u64,
    /// Offset in the file, address, bytes in the file, bytes in memory.
    pub(in crate::x86_64::boot) segments: Vec<(u64, u64, usize, usize)>,
    pub(in crate::x86_64::boot) pvh: Option<u32>,
}

impl Elf {
    pub(in crate::x86_64::boot) fn small() -> Self {
        let segments = vec![(0x1000, RUN, 0x1234, 0x3000)];
        Self { is_64: true, machine: 62, entry: RUN, segments, pvh: None }
    }

    /// Segments as Linux' linker lays them out: the later ones closer together in memory than in the file, and one
    /// further apart.
    pub(in crate::x86_64::boot) fn like_linux() -> Self {
        let segments = vec![
            (0x20_0000, RUN, 0x4_5678, 0x4_5678),
            (0x28_0000, RUN + 0x8_0000, 0x1_0000, 0x1_0000),
            (0x40_0000, RUN + 0xa_0000, 0x1234, 0x2000),
            (0x40_2000, RUN + 0x10_0000, 0x8000, 0x10_0000),
            (0x42_0000, RUN + 0x40_0000, 0x5000, 0x5000),
        ];
        Self { segments, ..Self::small() }
    }

    /// What segment `n` holds.
    pub(in crate::x86_64::boot) fn content(&self, n: usize) -> Vec<u8> {
        let mut state = n as u64 + 1;
        // Runs of noise, of zeros and of repetition, for packers and for the zero-aware copies.
        (0..self.segments[n].2)
            .map(|at| match at / 512 % 4 {
                0 => xorshift(&mut state) as u8,
                1 | 2 => 0,
                _ => at as u8 & 0x3f,
            })
            .collect()
    }

    pub(in crate::x86_64::boot) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 0x400];
        let notes = self.pvh.map(|entry| {
            let fields = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry];
            let other = [4u32, 3, 7, u32::from_le_bytes(*b"GNU\0"), 0x0001_0203];
            [other, fields].concat().iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        });
        let mut headers: Vec<[u64; 6]> = self
            .segments
            .iter()
            .map(|(offset, address, file, memory)| [1, *offset, *address, *file as u64, *memory as u64, 0x20_0000])
            .collect();
        if let Some(notes) = &notes {
            headers.push([4, 0x300, 0, notes.len() as u64, notes.len() as u64, 4]);
            out[0x300..0x300 + notes.len()].copy_from_slice(notes);
        }
        self.write_header(&mut out, headers.len());
        for (n, fields) in headers.iter().enumerate() {
            self.write_segment(&mut out, n, fields);
        }
        for (n, (offset, ..)) in self.segments.iter().enumerate() {
            out.resize(*offset as usize, 0);
            out.extend(self.content(n));
        }
        // Relocations for KASLR follow in a real kernel.
        out.extend([0x77; 3000]);
        out
    }

    fn write_header(&self, out: &mut [u8], count: usize) {
        let mut set = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, &[0x7f, b'E', b'L', b'F', if self.is_64 { 2 } else { 1 }, 1, 1]);
        set(16, &2u16.to_le_bytes());
        set(18, &self.machine.to_le_bytes());
        if self.is_64 {
            set(24, &self.entry.to_le_bytes());
            set(32, &64u64.to_le_bytes());
            set(54, &56u16.to_le_bytes());
            set(56, &(count as u16).to_le_bytes());
        } else {
            set(24, &(self.entry as u32).to_le_bytes());
            set(28, &64u32.to_le_bytes());
            set(42, &32u16.to_le_bytes());
            set(44, &(count as u16).to_le_bytes());
        }
    }

    fn write_segment(&self, out: &mut [u8], n: usize, fields: &[u64; 6]) {
        let [kind, offset, address, file, memory, align] = *fields;
        let (size, places, width) =
            if self.is_64 { (56, [8, 24, 32, 40, 48], 8) } else { (32, [4, 12, 16, 20, 28], 4) };
        let start = 64 + n * size;
        out[start..start + 4].copy_from_slice(&(kind as u32).to_le_bytes());
        for (place, value) in places.into_iter().zip([offset, address, file, memory, align]) {
            out[start + place..start + place + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }
}
