//! L1 and L2 entries ("Cluster mapping" in the specification).

pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits that must be zero in a standard L2 entry: 1 to 8, 56 to 61.
const RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Subclusters of one cluster.
pub(super) const SUBCLUSTERS: u64 = 32;
/// The bitmap of a cluster whose subclusters are all allocated; all zero.
pub(super) const ALL_ALLOCATED: u64 = 0xffff_ffff;
pub(super) const ALL_ZERO: u64 = 0xffff_ffff << 32;

/// One L2 entry; `bitmap` is [`ALL_ALLOCATED`] where entries are not extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub(super) word: u64,
    pub(super) bitmap: u64,
}

/// What an entry (or one subcluster of it) says of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// The backing file has it, or it is zero.
    Absent,
    /// Zero.
    Zero,
    /// At this host offset (of the cluster).
    Data(u64),
    /// Packed.
    Compressed,
}

impl Entry {
    /// The cluster at `host`, ours alone.
    pub(super) fn data(host: u64, bitmap: u64) -> Self {
        Self { word: host | COPIED, bitmap }
    }

    pub(super) fn is_compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    /// The host cluster that belongs to it, if one does (with data or kept for later).
    pub(super) fn host(self) -> Option<u64> {
        (!self.is_compressed() && self.word & OFFSET != 0).then_some(self.word & OFFSET)
    }

    /// Whether the host cluster is used by this entry alone.
    pub(super) fn is_copied(self) -> bool {
        self.word & COPIED != 0
    }

    /// The host offset (0 for none) of an entry, not extended, that says nothing but where its cluster is: not zero, not
    /// packed, nothing wrong with it. `within` has the bits of an offset within a cluster.
    #[inline]
    pub(super) fn standard(self, within: u64) -> Option<u64> {
        let place = OFFSET & !within;
        (self.word & !(COPIED | place) == 0).then_some(self.word & place)
    }

    /// What the bytes of subcluster `sub` are. `extended` says whether the bitmap counts.
    pub(super) fn mapping(self, extended: bool, external: bool, sub: u64) -> Mapping {
        if self.is_compressed() {
            return Mapping::Compressed;
        }
        // In an external data file offset 0 is a place like any other; the copied flag tells it from "absent".
        let has_host = self.word & OFFSET != 0 || (external && self.is_copied());
        if extended {
            if self.bitmap & (1 << (32 + sub)) != 0 {
                return Mapping::Zero;
            }
            if self.bitmap & (1 << sub) != 0 && has_host {
                return Mapping::Data(self.word & OFFSET);
            }
            return Mapping::Absent;
        }
        match (self.word & ZERO != 0, has_host) {
            (true, _) => Mapping::Zero,
            (false, true) => Mapping::Data(self.word & OFFSET),
            (false, false) => Mapping::Absent,
        }
    }

    /// The same host cluster (if any), reading as zeroes.
    pub(super) fn zeroed(self, extended: bool, keep_host: bool) -> Self {
        let kept = if keep_host && !self.is_compressed() { self.word & (OFFSET | COPIED) } else { 0 };
        if extended { Self { word: kept, bitmap: ALL_ZERO } } else { Self { word: kept | ZERO, bitmap: ALL_ALLOCATED } }
    }

    /// Where the packed bytes are: host offset and most bytes to read.
    pub(super) fn packed(self, cluster_bits: u32) -> (u64, u64) {
        let x = 62 - (cluster_bits - 8);
        let offset = self.word & ((1 << x) - 1);
        let sectors = (self.word >> x) & ((1 << (62 - x)) - 1);
        (offset, (sectors + 1) * 512 - (offset & 511))
    }

    /// An entry for `len` packed bytes at `offset`.
    pub(super) fn for_packed(offset: u64, len: u64, cluster_bits: u32) -> Self {
        let x = 62 - (cluster_bits - 8);
        let sectors = ((offset + len - 1) >> 9) - (offset >> 9);
        Self { word: COMPRESSED | (sectors << x) | offset, bitmap: 0 }
    }

    /// What is wrong with it, by the specification's rules for the entry alone.
    pub(super) fn fault(self, cluster_bits: u32, extended: bool) -> Option<Fault> {
        if self.is_compressed() {
            return (extended && self.bitmap != 0).then_some(Fault::PackedSubclusters);
        }
        let reserved = RESERVED | if extended { ZERO } else { 0 };
        if self.word & reserved != 0 {
            return Some(Fault::Reserved);
        }
        if self.word & OFFSET & ((1 << cluster_bits) - 1) != 0 {
            return Some(Fault::Misplaced);
        }
        (extended && (self.bitmap >> 32) & self.bitmap & ALL_ALLOCATED != 0).then_some(Fault::ZeroAndAllocated)
    }

    /// The entry without its host cluster, if nothing is read from there: all is zero, or shows what is beneath.
    pub(super) fn without_place(self, extended: bool) -> Option<Self> {
        let read = if extended { self.bitmap & ALL_ALLOCATED != 0 } else { self.word & ZERO == 0 };
        (!read).then_some(Self { word: self.word & ZERO, bitmap: self.bitmap })
    }
}

/// What can be wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    PackedSubclusters,
    Reserved,
    /// The host offset is within a cluster.
    Misplaced,
    /// Of an image without an external data file: the host offset is that of the header.
    InHeader,
    ZeroAndAllocated,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PackedSubclusters => "a compressed cluster has subclusters",
            Self::Reserved => "reserved bits are set",
            Self::Misplaced => "the host offset is not a multiple of the cluster size",
            Self::InHeader => "the host offset lies in the header",
            Self::ZeroAndAllocated => "a subcluster is both zero and allocated",
        })
    }
}
