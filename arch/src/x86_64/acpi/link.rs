//! Tables as bytes with links between them, and the two ways to resolve the links.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::Oem;

/// Files under which firmware finds the tables.
const TABLES_FILE: &str = "etc/acpi/tables";
const RSDP_FILE: &str = "etc/acpi/rsdp";
/// The FACS wants 64 bytes (ACPI 6.5, 5.2.10), the root pointer 16 (5.2.5.1).
const TABLES_ALIGN: u32 = 64;
const RSDP_ALIGN: u32 = 16;

const HEADER_LEN: usize = 36;
const LENGTH_OFFSET: usize = 4;
const CHECKSUM_OFFSET: usize = 9;
const CREATOR: &[u8; 4] = b"RHEA";

/// Sizes of a loader entry and a file name in it, and its commands (QEMU's docs/specs/acpi_hw_reduced and the
/// `romfile_loader_entry_s` of SeaBIOS's romfile_loader.h).
const ENTRY_LEN: usize = 128;
const FILE_LEN: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where firmware may put a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High = 1,
    /// In the BIOS segment, where anchors are searched.
    BiosSegment = 2,
}

/// Bytes that must stay together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The fw_cfg file's name.
    pub name: &'static str,
    /// The content before links are resolved: pointers hold offsets, checksums zero.
    pub bytes: Vec<u8>,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// Where firmware puts it.
    pub zone: Zone,
}

/// What to do once the blobs have addresses, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Adds the address of blob `target` to the little-endian number of `size` bytes at `offset` of blob `at`.
    Pointer {
        /// The blob to patch.
        at: usize,
        /// Where in it.
        offset: usize,
        /// 4 or 8.
        size: u8,
        /// The blob whose address is added.
        target: usize,
    },
    /// Sets the byte at `offset` of blob `at` so that the bytes in `range` sum to zero.
    Checksum {
        /// The blob to patch.
        at: usize,
        /// Where in it; the byte is zero before.
        offset: usize,
        /// First byte of the sum and its end.
        range: (usize, usize),
    },
}

/// Why tables cannot be placed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Too long for the area.
    #[error("the ACPI tables need {needed} bytes, the area at {start:#x} has {available}")]
    TooLong {
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        available: u64,
        /// Where.
        start: u64,
    },
    /// Guest memory does not reach over the area.
    #[error("cannot write the ACPI tables to guest memory")]
    Memory(#[source] GuestMemoryError),
}

/// Where the tables lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The root pointer, for boot protocols that take it.
    pub rsdp: GuestAddress,
    /// First byte behind all tables.
    pub end: GuestAddress,
}

/// All tables, not yet at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The tables and the root pointer.
    pub blobs: Vec<Blob>,
    /// How they are tied together.
    pub links: Vec<Link>,
}

impl Tables {
    /// Resolves the links for blobs that lie at `addresses`, one for each.
    pub fn linked(&self, addresses: &[u64]) -> Vec<Vec<u8>> {
        let mut bytes: Vec<Vec<u8>> = self.blobs.iter().map(|blob| blob.bytes.clone()).collect();
        for link in &self.links {
            match *link {
                Link::Pointer { at, offset, size, target } => {
                    let field = &mut bytes[at][offset..offset + usize::from(size)];
                    let value = field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
                    let resolved = value.wrapping_add(addresses[target]).to_le_bytes();
                    field.copy_from_slice(&resolved[..usize::from(size)]);
                }
                Link::Checksum { at, offset, range: (start, end) } => {
                    let sum = bytes[at][start..end].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    bytes[at][offset] = sum.wrapping_neg();
                }
            }
        }
        bytes
    }

    /// Writes the tables into `area` of guest memory.
    ///
    /// # Errors
    /// They do not fit, or there is no memory.
    pub fn place<M: GuestMemoryBackend>(&self, mem: &M, area: Range<u64>) -> Result<Placed, LinkError> {
        let mut next = area.start;
        let mut addresses = Vec::new();
        // The root pointer first: it is searched from the area's start.
        let mut order: Vec<usize> = (0..self.blobs.len()).collect();
        order.sort_by_key(|n| self.blobs[*n].zone != Zone::BiosSegment);
        addresses.resize(self.blobs.len(), 0);
        for n in order {
            let blob = &self.blobs[n];
            addresses[n] = next.next_multiple_of(blob.align.into());
            next = addresses[n] + blob.bytes.len() as u64;
        }
        if next > area.end {
            let (needed, available) = (next - area.start, area.end - area.start);
            return Err(LinkError::TooLong { needed, available, start: area.start });
        }
        for (bytes, address) in self.linked(&addresses).iter().zip(&addresses) {
            mem.write_slice(bytes, GuestAddress(*address)).map_err(LinkError::Memory)?;
        }
        Ok(Placed { rsdp: GuestAddress(addresses[RSDP]), end: GuestAddress(next) })
    }

    /// The content of fw_cfg's `etc/table-loader`, by which firmware allocates, links and sums the blobs.
    pub fn loader_script(&self) -> Vec<u8> {
        let name = |n: usize| self.blobs[n].name;
        let allocate = self.blobs.iter().map(|blob| {
            let align = blob.align.to_le_bytes();
            entry(ALLOCATE, &[file(blob.name), align.to_vec(), vec![blob.zone as u8]])
        });
        let links = self.links.iter().map(|link| match *link {
            Link::Pointer { at, offset, size, target } => {
                entry(ADD_POINTER, &[file(name(at)), file(name(target)), word(offset), vec![size]])
            }
            Link::Checksum { at, offset, range: (start, end) } => {
                entry(ADD_CHECKSUM, &[file(name(at)), word(offset), word(start), word(end - start)])
            }
        });
        allocate.chain(links).flatten().collect()
    }
}

fn word(value: usize) -> Vec<u8> {
    (value as u32).to_le_bytes().to_vec()
}

fn file(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(FILE_LEN, 0);
    bytes
}

fn entry(command: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = [&command.to_le_bytes()[..], &fields.concat()].concat();
    bytes.resize(ENTRY_LEN, 0);
    bytes
}

/// Indices of the two blobs.
const TABLES: usize = 0;
const RSDP: usize = 1;

/// A table's place in the blob of tables.
#[derive(Clone, Copy)]
pub(super) struct Place(usize);

/// Puts tables one behind another.
pub(super) struct Builder {
    oem: Oem,
    bytes: Vec<u8>,
    links: Vec<Link>,
}

impl Builder {
    pub(super) fn new(oem: Oem) -> Self {
        Self { oem, bytes: Vec::new(), links: Vec::new() }
    }

    /// Appends bytes that have neither header nor checksum.
    pub(super) fn raw(&mut self, content: &[u8]) -> Place {
        let place = self.align();
        self.bytes.extend_from_slice(content);
        place
    }

    /// Appends a table with its header (ACPI 6.5, 5.2.6).
    pub(super) fn table(&mut self, signature: &[u8; 4], revision: u8, content: &[u8]) -> Place {
        let place = self.unsummed(signature, revision, content);
        self.sum(place);
        place
    }

    /// Appends a table whose pointers are still to be added; [`Self::sum`] must follow.
    pub(super) fn unsummed(&mut self, signature: &[u8; 4], revision: u8, content: &[u8]) -> Place {
        let place = self.align();
        let length = (HEADER_LEN + content.len()) as u32;
        self.bytes.extend_from_slice(signature);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&[revision, 0]);
        self.bytes.extend_from_slice(&self.oem.id);
        self.bytes.extend_from_slice(&self.oem.table_id);
        self.bytes.extend_from_slice(&1u32.to_le_bytes());
        self.bytes.extend_from_slice(CREATOR);
        self.bytes.extend_from_slice(&1u32.to_le_bytes());
        self.bytes.extend_from_slice(content);
        place
    }

    /// Makes the field of `size` bytes at `offset` of a table (header included) point to another table.
    pub(super) fn point(&mut self, from: Place, offset: usize, size: u8, to: Place) {
        let at = from.0 + offset;
        self.bytes[at..at + usize::from(size)].copy_from_slice(&(to.0 as u64).to_le_bytes()[..usize::from(size)]);
        self.links.push(Link::Pointer { at: TABLES, offset: at, size, target: TABLES });
    }

    /// Sums a table once its pointers are listed.
    pub(super) fn sum(&mut self, place: Place) {
        let start = place.0;
        let length = &self.bytes[start + LENGTH_OFFSET..start + LENGTH_OFFSET + 4];
        let length = length.iter().rev().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
        let range = (start, start + length);
        self.links.push(Link::Checksum { at: TABLES, offset: start + CHECKSUM_OFFSET, range });
    }

    fn align(&mut self) -> Place {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        Place(self.bytes.len())
    }

    /// Lists tables in an RSDT or XSDT (5.2.7, 5.2.8).
    fn list(&mut self, signature: &[u8; 4], width: u8, listed: &[Place]) -> Place {
        let place = self.unsummed(signature, 1, &vec![0; usize::from(width) * listed.len()]);
        for (n, table) in listed.iter().enumerate() {
            self.point(place, HEADER_LEN + n * usize::from(width), width, *table);
        }
        self.sum(place);
        place
    }

    /// Lists the tables and points to the lists (5.2.5.3).
    pub(super) fn finish(mut self, listed: &[Place]) -> Tables {
        const LEN: usize = 36;
        const FIRST_LEN: usize = 20;
        const REVISION: u8 = 2;
        let rsdt = self.list(b"RSDT", 4, listed);
        let xsdt = self.list(b"XSDT", 8, listed);
        let mut root = [&b"RSD PTR \0"[..], &self.oem.id, &[REVISION]].concat();
        root.extend_from_slice(&(rsdt.0 as u32).to_le_bytes());
        root.extend_from_slice(&(LEN as u32).to_le_bytes());
        root.extend_from_slice(&(xsdt.0 as u64).to_le_bytes());
        root.resize(LEN, 0);
        self.links.extend([
            Link::Pointer { at: RSDP, offset: 16, size: 4, target: TABLES },
            Link::Pointer { at: RSDP, offset: 24, size: 8, target: TABLES },
            Link::Checksum { at: RSDP, offset: 8, range: (0, FIRST_LEN) },
            Link::Checksum { at: RSDP, offset: 32, range: (0, LEN) },
        ]);
        let tables = Blob { name: TABLES_FILE, bytes: self.bytes, align: TABLES_ALIGN, zone: Zone::High };
        let root = Blob { name: RSDP_FILE, bytes: root, align: RSDP_ALIGN, zone: Zone::BiosSegment };
        Tables { blobs: vec![tables, root], links: self.links }
    }
}
