//! The header of qcow2, and its extensions ("Header" and "Header extensions" in QEMU's `docs/interop/qcow2.txt`).

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec};

pub(super) const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");

/// Incompatible feature bits.
pub(super) mod incompatible {
    pub(in super::super) const DIRTY: u64 = 1 << 0;
    pub(in super::super) const CORRUPT: u64 = 1 << 1;
    pub(in super::super) const DATA_FILE: u64 = 1 << 2;
    pub(in super::super) const COMPRESSION: u64 = 1 << 3;
    pub(in super::super) const EXTENDED_L2: u64 = 1 << 4;
    pub(in super::super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature bit: reference counts may be postponed.
pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear feature bits: bitmaps are consistent; the external data file can be read as raw.
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
pub(super) const AUTOCLEAR_RAW_DATA: u64 = 1 << 1;

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_DATA_FILE: u32 = 0x4441_5441;
/// Where the LUKS header is.
pub(super) const EXT_CRYPTO: u32 = 0x0537_be77;
pub(super) const EXT_BITMAPS: u32 = 0x2385_2875;

/// Largest L1 table and refcount table that are read, in bytes.
const MOST_L1_BYTES: u64 = 32 << 20;
pub(super) const MOST_REFTABLE_BYTES: u64 = 8 << 20;
/// Longest backing file name (the specification's limit), most snapshots.
const MOST_NAME: u32 = 1023;
const MOST_SNAPSHOTS: u32 = 65536;

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

/// Why an image cannot be used.
pub(super) fn corrupt(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, text)
}

pub(super) fn unsupported(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Unsupported, text)
}

/// One header extension, kept as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

/// The header's fields, in host byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) compression: Compression,
    /// Fields past byte 105 that we do not know, kept.
    pub(super) unknown_fields: Vec<u8>,
    pub(super) backing_file: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<String>,
    /// All extensions but those with a field of their own.
    pub(super) extensions: Vec<Extension>,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn text(bytes: &[u8], what: &str) -> Result<String, BlockError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| unsupported(format!("the {what} in the header is not UTF-8")))
}

impl Header {
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bits of guest offset that one L2 table covers.
    pub(super) fn l2_span_bits(&self) -> u32 {
        2 * self.cluster_bits - if self.incompatible & incompatible::EXTENDED_L2 != 0 { 4 } else { 3 }
    }

    /// Reads and checks the header at the start of `file`.
    pub(super) fn read(file: &dyn Layer) -> Result<Self, BlockError> {
        let header = Self::read_for_check(file)?;
        if header.reftable_clusters == 0 || header.reftable_offset == 0 {
            return Err(corrupt("Image does not contain a reference count table"));
        }
        Ok(header)
    }

    /// The same, of an image that may have lost its table of counts.
    pub(super) fn read_for_check(file: &dyn Layer) -> Result<Self, BlockError> {
        let head = read_vec(file, 0, 112)?;
        if be32(&head, 0) != MAGIC {
            return Err(BlockError::new(ErrorKind::Invalid, "Image is not in qcow2 format"));
        }
        let version = be32(&head, 4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("Unsupported qcow2 version {version}")));
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt(format!("Unsupported cluster size: 2^{cluster_bits}")));
        }
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(&head, 24),
            crypt_method: be32(&head, 32),
            l1_size: be32(&head, 36),
            l1_offset: be64(&head, 40),
            reftable_offset: be64(&head, 48),
            reftable_clusters: be32(&head, 56),
            snapshots: be32(&head, 60),
            snapshots_offset: be64(&head, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: Compression::Zlib,
            unknown_fields: Vec::new(),
            backing_file: None,
            backing_format: None,
            data_file: None,
            extensions: Vec::new(),
        };
        let mut length = 72;
        if version == 3 {
            header.incompatible = be64(&head, 72);
            header.compatible = be64(&head, 80);
            header.autoclear = be64(&head, 88);
            header.refcount_order = be32(&head, 96);
            length = be32(&head, 100) as usize;
        }
        if length < if version == 3 { 104 } else { 72 } || length as u64 > header.cluster_size() {
            return Err(corrupt(format!("qcow2 header length {length} is impossible")));
        }
        let (name_at, name_len) = (be64(&head, 8), be32(&head, 16));
        header.read_tail(file, length, name_at, name_len)?;
        header.check()?;
        Ok(header)
    }

    /// Refuses tables that begin past the end of the file.
    pub(super) fn check_ends(&self, file_size: u64) -> Result<(), BlockError> {
        let tables = [
            ("Reference count", self.reftable_offset, u64::from(self.reftable_clusters)),
            ("Active L1", self.l1_offset, u64::from(self.l1_size)),
            ("Snapshot", self.snapshots_offset, u64::from(self.snapshots)),
        ];
        match tables.iter().find(|(_, offset, entries)| *entries > 0 && *offset >= file_size) {
            Some((name, ..)) => Err(corrupt(format!("{name} table past end of file"))),
            None => Ok(()),
        }
    }

    /// Reads what follows the fixed fields: later fields, extensions, the backing file's name.
    fn read_tail(&mut self, file: &dyn Layer, length: usize, name_at: u64, name_len: u32) -> Result<(), BlockError> {
        let cluster = read_vec(file, 0, 1 << self.cluster_bits)?;
        let unknown = self.incompatible & !incompatible::KNOWN;
        let end = if name_at == 0 { cluster.len() } else { (name_at as usize).min(cluster.len()) };
        self.read_extensions(cluster.get(length..end).unwrap_or(&[]), unknown)?;
        if length > 104 {
            let kind = cluster[104];
            self.compression = match kind {
                0 => Compression::Zlib,
                1 => Compression::Zstd,
                _ => return Err(unsupported(format!("qcow2 compression type {kind} is not known"))),
            };
            self.unknown_fields = cluster[105..length].to_vec();
        }
        if (self.compression != Compression::Zlib) != (self.incompatible & incompatible::COMPRESSION != 0) {
            return Err(corrupt("qcow2 compression type and its feature bit disagree"));
        }
        if name_at != 0 && name_len != 0 {
            if name_len > MOST_NAME.min(self.cluster_size() as u32 - 1) {
                return Err(corrupt("Backing file name too long"));
            }
            let name = usize::try_from(name_at).ok().and_then(|at| cluster.get(at..at.checked_add(name_len as usize)?));
            let name = name.ok_or_else(|| corrupt("Invalid backing file offset"))?;
            self.backing_file = Some(text(name, "backing file name")?);
        }
        Ok(())
    }

    fn read_extensions(&mut self, mut area: &[u8], unknown: u64) -> Result<(), BlockError> {
        let mut names = Vec::new();
        while area.len() >= 8 {
            let (kind, len) = (be32(area, 0), be32(area, 4) as usize);
            if kind == EXT_END {
                break;
            }
            let Some(data) = area.get(8..8usize.saturating_add(len)) else {
                return Err(corrupt(format!("Header extension {kind:#x} too large")));
            };
            match kind {
                EXT_BACKING_FORMAT => self.backing_format = Some(text(data, "backing format")?),
                EXT_DATA_FILE => self.data_file = Some(text(data, "data file name")?),
                EXT_FEATURE_NAMES => names = data.to_vec(),
                _ => self.extensions.push(Extension { kind, data: data.to_vec() }),
            }
            area = area.get(8 + len.next_multiple_of(8)..).unwrap_or(&[]);
        }
        if unknown != 0 {
            return Err(unsupported(format!("Unsupported qcow2 feature(s): {}", feature_names(&names, unknown))));
        }
        Ok(())
    }

    /// Checks what every later step relies on.
    fn check(&self) -> Result<(), BlockError> {
        let cluster = self.cluster_size();
        if self.refcount_order > 6 {
            return Err(corrupt("Reference count entry width too large; may not exceed 64 bits"));
        }
        if self.incompatible & incompatible::EXTENDED_L2 != 0 && self.cluster_bits < 14 {
            return Err(corrupt("extended L2 entries need clusters of at least 16 KiB"));
        }
        if self.crypt_method > 2 {
            return Err(unsupported(format!("Unsupported encryption method {}", self.crypt_method)));
        }
        let table = |name: &str, offset: u64, bytes: u64, most: u64| {
            if bytes > most {
                return Err(corrupt(format!("{name} table is too large")));
            }
            let end = offset.checked_add(bytes);
            if !offset.is_multiple_of(cluster) || end.is_none_or(|end| end > i64::MAX as u64) {
                return Err(corrupt(format!("{name} table offset invalid")));
            }
            Ok(())
        };
        table(
            "Reference count",
            self.reftable_offset,
            u64::from(self.reftable_clusters) * cluster,
            MOST_REFTABLE_BYTES,
        )?;
        table("Active L1", self.l1_offset, u64::from(self.l1_size) * 8, MOST_L1_BYTES)?;
        let needed = self.l1_needed(self.size);
        if u64::from(self.l1_size) < needed {
            return Err(corrupt("L1 table is too small"));
        }
        if self.l1_size > 0 && self.l1_offset == 0 {
            return Err(corrupt("Active L1 table offset invalid"));
        }
        if self.snapshots > MOST_SNAPSHOTS {
            return Err(corrupt("Snapshot table is too large"));
        }
        table("Snapshot", self.snapshots_offset, u64::from(self.snapshots) * 40, u64::MAX)?;
        Ok(())
    }

    /// Whether the external data file is to be the disk as a raw image, with or without this file ("Raw external data
    /// bit" in the specification).
    pub(super) fn has_raw_data(&self) -> bool {
        self.incompatible & incompatible::DATA_FILE != 0 && self.autoclear & AUTOCLEAR_RAW_DATA != 0
    }

    /// Entries of an L1 table for a disk of `size` bytes.
    pub(super) fn l1_needed(&self, size: u64) -> u64 {
        let bits = self.l2_span_bits();
        (size >> bits) + u64::from(size & ((1 << bits) - 1) != 0)
    }

    /// The first cluster of the image: header, extensions and backing file name.
    pub(super) fn encode(&self) -> Result<Vec<u8>, BlockError> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_be_bytes());
        out.extend(self.version.to_be_bytes());
        // The backing file's name goes last; its place is filled in below.
        out.extend([0; 12]);
        out.extend(self.cluster_bits.to_be_bytes());
        out.extend(self.size.to_be_bytes());
        out.extend(self.crypt_method.to_be_bytes());
        out.extend(self.l1_size.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.reftable_offset.to_be_bytes());
        out.extend(self.reftable_clusters.to_be_bytes());
        out.extend(self.snapshots.to_be_bytes());
        out.extend(self.snapshots_offset.to_be_bytes());
        if self.version == 3 {
            out.extend(self.incompatible.to_be_bytes());
            out.extend(self.compatible.to_be_bytes());
            out.extend(self.autoclear.to_be_bytes());
            out.extend(self.refcount_order.to_be_bytes());
            let tail: &[u8] = if self.unknown_fields.is_empty() { &[0; 7] } else { &self.unknown_fields };
            out.extend((105 + tail.len() as u32).to_be_bytes());
            out.push(self.compression as u8);
            out.extend(tail);
        }
        if let Some(format) = &self.backing_format {
            push_extension(&mut out, EXT_BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            push_extension(&mut out, EXT_DATA_FILE, name.as_bytes());
        }
        let name_len = self.backing_file.as_ref().map_or(0, String::len);
        let kept: usize = self.extensions.iter().map(|extension| 8 + extension.data.len().next_multiple_of(8)).sum();
        let with_names = out.len() + 8 + FEATURES.len() * 48 + kept + 8 + name_len;
        // The names of features are for people: in clusters of 512 bytes they give way to what the image needs.
        if self.version == 3 && with_names as u64 <= self.cluster_size() {
            push_extension(&mut out, EXT_FEATURE_NAMES, &feature_table());
        }
        for extension in &self.extensions {
            push_extension(&mut out, extension.kind, &extension.data);
        }
        out.extend([0; 8]);
        if let Some(name) = &self.backing_file {
            let at = out.len() as u64;
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            out.extend(name.as_bytes());
        }
        if out.len() as u64 > self.cluster_size() {
            return Err(BlockError::new(ErrorKind::Invalid, "the header with its names does not fit into one cluster"));
        }
        out.resize(self.cluster_size() as usize, 0);
        Ok(out)
    }
}

fn push_extension(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Kind (incompatible, compatible, autoclear), bit and name of the features we write.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

fn feature_table() -> Vec<u8> {
    let mut table = Vec::new();
    for (kind, bit, name) in FEATURES {
        table.extend([kind, bit]);
        table.extend(name.as_bytes());
        table.resize(table.len() + 46 - name.len(), 0);
    }
    table
}

fn feature_names(table: &[u8], unknown: u64) -> String {
    let named = |bit: u32| {
        // The last name may be cut short.
        let entry = table.chunks(48).find(|e| e.len() > 2 && e[0] == 0 && u32::from(e[1]) == bit)?;
        let name = entry[2..].split(|b| *b == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    };
    let bits = (0..64).filter(|bit| unknown & (1 << bit) != 0);
    let (known, strange): (Vec<_>, Vec<_>) = bits.map(|bit| (bit, named(bit))).partition(|(_, name)| name.is_some());
    let mut names: Vec<_> = known.into_iter().filter_map(|(_, name)| name).collect();
    let strange = strange.iter().fold(0u64, |bits, (bit, _)| bits | 1 << bit);
    if strange != 0 {
        names.push(format!("Unknown incompatible feature: {strange:x}"));
    }
    names.join(", ")
}
