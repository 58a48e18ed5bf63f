//! `-m` and `-numa`.

use serde_json::{Map, Value};

use super::describe::{DescribeUnion, Variant};
use super::error::{SpecError, Words};
use super::number::ByteSize;
use super::read::{self, Source};

/// Memory of a guest that asks for nothing: 128 MiB.
const DEFAULT_SIZE: u64 = 128 << 20;

/// Sizes are rounded up to this many bytes.
const UNIT: u64 = 8192;

spec_struct! {
    /// `-m` as written.
    pub struct MemoryOptions as "MemorySizeConfiguration" {
        /// Memory at start; MiB without a suffix; 128 MiB when not given.
        pub size: Option<ByteSize>,
        /// Places for memory added later; only 0 here.
        pub slots: Option<u64>,
        /// Most memory there can ever be; only as much as at start here.
        pub max_size: Option<ByteSize>,
    }
}

impl MemoryOptions {
    /// Bytes of guest memory, a multiple of 8 KiB.
    ///
    /// # Errors
    /// More memory is to be added later, or `maxmem` is less than the size.
    pub fn resolve(&self) -> Result<MemorySpec, SpecError> {
        let asked = self.size.map_or(0, |size| size.0);
        let asked = if asked == 0 { DEFAULT_SIZE } else { asked };
        let too_much = || SpecError::new("ram size too large");
        let size = asked.checked_next_multiple_of(UNIT).ok_or_else(too_much)?;
        let refused = || {
            SpecError::refused(
                "memory added while the guest runs ('slots', 'maxmem')",
                "give all of it at start with 'size'",
            )
        };
        match (self.max_size.map(|most| most.0), self.slots.unwrap_or(0)) {
            (None, 0) => Ok(MemorySpec { size: ByteSize(size) }),
            (None, _) => Err(SpecError::new("invalid -m option, missing 'maxmem' option")),
            (Some(most), _) if most < asked => Err(SpecError::new(format!(
                "invalid value of maxmem: maximum memory size ({most:#x}) must be at least the initial memory size \
                 ({asked:#x})"
            ))),
            (Some(most), 0) if most == asked => Ok(MemorySpec { size: ByteSize(size) }),
            _ => Err(refused()),
        }
    }
}

/// How much memory the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySpec {
    /// Bytes, a multiple of 8 KiB, not 0.
    pub size: ByteSize,
}

impl Default for MemorySpec {
    fn default() -> Self {
        Self { size: ByteSize(DEFAULT_SIZE) }
    }
}

spec_union! {
    /// `-numa`.
    pub enum NumaSpec by "type" {
        /// A node.
        Node(NumaNodeSpec) = "node",
        /// How far one node is from another.
        Dist(NumaDistSpec) = "dist",
    }
}

spec_struct! {
    /// A NUMA node of the guest.
    pub struct NumaNodeSpec as "NumaNodeOptions" {
        /// Its number; the next one when not given.
        pub nodeid: Option<u16>,
        /// vCPUs on it: a list of numbers; in option text ranges FIRST-LAST, repeated for more.
        pub cpus: Vec<u32>,
        /// Its memory in bytes.
        pub mem: Option<ByteSize>,
        /// The memory object that is its memory.
        pub memdev: Option<String>,
    }
}

spec_struct! {
    /// How far one NUMA node is from another.
    pub struct NumaDistSpec as "NumaDistOptions" {
        /// From this node.
        pub src: u16,
        /// To this node.
        pub dst: u16,
        /// The distance: 10 within a node, 255 for unreachable.
        pub val: u8,
    }
}

impl NumaSpec {
    /// Reads the options, with `type` among them.
    ///
    /// # Errors
    /// One sentence, in the words of `-numa`.
    pub fn read(object: Map<String, Value>, source: Source) -> Result<Self, SpecError> {
        let spec: Self = read::read_union(object, source, |_| Words::Options, variant)?;
        match &spec {
            Self::Node(node) if node.mem.is_some() && node.memdev.is_some() => {
                Err(SpecError::new("cannot specify both mem= and memdev="))
            }
            Self::Dist(dist) if dist.val < 10 => {
                Err(SpecError::new(format!("NUMA distance ({}) is invalid, it shouldn't be less than 10", dist.val)))
            }
            _ => Ok(spec),
        }
    }
}

fn variant(name: &str) -> Result<&'static Variant, SpecError> {
    if let Some(found) = NumaSpec::UNION.find(name) {
        return Ok(found);
    }
    Err(match name {
        "cpu" => SpecError::refused("'-numa cpu'", "give the vCPUs to -numa node with 'cpus'"),
        "hmat-lb" | "hmat-cache" => SpecError::refused(format_args!("'-numa {name}'"), "use -numa node and -numa dist"),
        _ => SpecError::not_one_of("type", name, &NumaSpec::UNION.names()),
    })
}
