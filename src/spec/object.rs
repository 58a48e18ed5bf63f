//! Objects that devices and disks use: one type for `-object` and `object-add`.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::describe::{DescribeUnion, Variant};
use super::error::{SpecError, Words};
use super::number::ByteSize;
use super::read::{self, Source};

spec_union! {
    /// An object and its properties.
    pub enum ObjectSpec by "qom-type" {
        /// Guest memory without a file.
        MemoryRam(MemoryRamSpec) = "memory-backend-ram",
        /// Guest memory in an unnamed file.
        MemoryMemfd(MemoryMemfdSpec) = "memory-backend-memfd",
        /// Guest memory in a file.
        MemoryFile(MemoryFileSpec) = "memory-backend-file",
        /// Random numbers from a file.
        RngRandom(RngRandomSpec) = "rng-random",
        /// Random numbers from the kernel.
        RngBuiltin(RngBuiltinSpec) = "rng-builtin",
        /// A thread for devices.
        Iothread(IothreadSpec) = "iothread",
        /// A secret.
        Secret(SecretSpec) = "secret",
        /// Limits that disks share.
        ThrottleGroup(ThrottleGroupSpec) = "throttle-group",
    }
}

/// Threads that may touch memory at start: more than hosts have processors.
const MOST_THREADS: u32 = 1024;

spec_enum! {
    /// On which of the host's NUMA nodes memory is.
    pub enum HostMemPolicy {
        /// As the host decides.
        Default = "default",
        /// Rather on those named.
        Preferred = "preferred",
        /// Only on those named.
        Bind = "bind",
        /// In turn on those named.
        Interleave = "interleave",
    }
}

spec_struct! {
    /// What all guest memory has.
    pub part MemoryCommon as "memory-backend" {
        /// Name of the object.
        pub id: String,
        /// Bytes; a suffix is understood.
        pub size: ByteSize,
        /// Touch all of it at start.
        pub prealloc: bool = false,
        /// Threads that touch it.
        pub prealloc_threads: u32 = 1,
        /// Let the host merge equal pages.
        pub merge: bool = true,
        /// Include it in a core dump of this process.
        pub dump: bool = true,
        /// Reserve swap space or huge pages; only on here.
        pub reserve: bool = true,
        /// NUMA policy of the host's memory; only default here.
        pub policy: HostMemPolicy = HostMemPolicy::Default,
        /// NUMA nodes of the host; none here.
        pub host_nodes: Vec<u16>,
        /// Name for migration from old versions; no migration here that would use it.
        pub x_use_canonical_path_for_ramblock_id: bool = false,
    }
}

impl MemoryCommon {
    fn check(&self) -> Result<(), SpecError> {
        let bind = "leave it out and start the program under numactl";
        if self.size.0 == 0 {
            Err(SpecError::new(
                "property 'size' of a memory backend doesn't take value '0'; it expects a number of bytes",
            ))
        } else if self.policy != HostMemPolicy::Default {
            Err(SpecError::refused(format_args!("'policy={}'", self.policy), bind))
        } else if !self.host_nodes.is_empty() {
            Err(SpecError::refused("'host-nodes'", bind))
        } else if !self.reserve {
            Err(SpecError::refused("'reserve=off'", "leave it on"))
        } else if !(1..=MOST_THREADS).contains(&self.prealloc_threads) {
            Err(SpecError::new(format!(
                "property 'prealloc-threads' of a memory backend takes a number from 1 to {MOST_THREADS}"
            )))
        } else {
            Ok(())
        }
    }
}

spec_struct! {
    /// Guest memory without a file.
    pub struct MemoryRamSpec as "memory-backend-ram" with common: MemoryCommon {
        /// Map it shared rather than private.
        pub share: bool = false,
    }
}

spec_struct! {
    /// Guest memory in an unnamed file, which other processes can map.
    pub struct MemoryMemfdSpec as "memory-backend-memfd" with common: MemoryCommon {
        /// Map it shared rather than private.
        pub share: bool = true,
        /// Back it with huge pages.
        pub hugetlb: bool = false,
        /// Bytes of a huge page; the host's default when not given.
        pub hugetlbsize: Option<ByteSize>,
        /// The file can neither grow nor shrink.
        pub seal: bool = true,
    }
}

spec_struct! {
    /// Guest memory in a file or in a directory of a memory file system.
    pub struct MemoryFileSpec as "memory-backend-file" with common: MemoryCommon {
        /// Map it shared rather than private.
        pub share: bool = false,
        /// The file, or a directory to make an unnamed file in.
        pub mem_path: PathBuf,
        /// Give the file's pages back to the host at the end.
        pub discard_data: bool = false,
        /// Open it only for reading; only off here.
        pub readonly: bool = false,
        /// It is persistent memory; only off here.
        pub pmem: bool = false,
    }
}

spec_struct! {
    /// Random numbers from a file or device.
    pub struct RngRandomSpec as "rng-random" {
        /// Name of the object.
        pub id: String,
        /// Where they are read from.
        pub filename: PathBuf = PathBuf::from("/dev/urandom"),
    }
}

spec_struct! {
    /// Random numbers from the kernel's generator.
    pub struct RngBuiltinSpec as "rng-builtin" {
        /// Name of the object.
        pub id: String,
    }
}

spec_struct! {
    /// A thread that serves devices.
    pub struct IothreadSpec as "iothread" {
        /// Name of the object.
        pub id: String,
        /// Most nanoseconds of polling before sleeping; 0 for none.
        pub poll_max_ns: i64 = 0,
        /// How many times as long it polls next when that was too short; 0 for twice.
        pub poll_grow: i64 = 0,
        /// By what the time of polling is divided when it cannot be long enough; 0 for no more polling.
        pub poll_shrink: i64 = 0,
        /// Most requests handed to the kernel at once; 0 for as many as there are.
        pub aio_max_batch: i64 = 0,
        /// Worker threads that are kept when there is nothing to do, at most 1024.
        pub thread_pool_min: i64 = 0,
        /// Most worker threads at once.
        pub thread_pool_max: i64 = 64,
    }
}

spec_enum! {
    /// How a secret is written.
    pub enum SecretFormat as "QCryptoSecretFormat" {
        /// As it is.
        Raw = "raw",
        /// In base64.
        Base64 = "base64",
    }
}

spec_struct! {
    /// A password or key.
    pub struct SecretSpec as "secret" {
        /// Name of the object.
        pub id: String,
        /// The secret itself; other users of the host can see it in the list of processes.
        pub data: Option<String>,
        /// A file that holds the secret.
        pub file: Option<PathBuf>,
        /// How it is written.
        pub format: SecretFormat = SecretFormat::Raw,
        /// The secret object whose key this one is encrypted with (AES-256-CBC).
        pub keyid: Option<String>,
        /// Initialisation vector in base64, with keyid.
        pub iv: Option<String>,
    }
}

impl SecretSpec {
    fn check(&self) -> Result<(), SpecError> {
        match (&self.data, &self.file, &self.keyid, &self.iv) {
            (None, None, ..) => Err(SpecError::new("Either 'file' or 'data' must be provided")),
            (Some(_), Some(_), ..) => Err(SpecError::new("'file' and 'data' are mutually exclusive")),
            (_, _, Some(_), None) => Err(SpecError::new("IV is required to decrypt secret")),
            (_, _, None, Some(_)) => Err(SpecError::new("'iv' goes with 'keyid'; give both or none")),
            _ => Ok(()),
        }
    }
}

macro_rules! limits {
    ($( $(#[doc = $doc:literal])* $field:ident $wire:literal $default:literal ),* $(,)?) => {
        spec_struct! {
            /// Limits of a disk's rates.
            pub struct ThrottleLimits {
                $( $(#[doc = $doc])* pub $field: u64 as $wire = $default ),*
            }
        }

        impl ThrottleLimits {
            /// What each is called as a property of the group itself.
            pub const OLD_NAMES: &'static [&'static str] = &[ $( concat!("x-", $wire) ),* ];
        }
    };
}

limits! {
    /// Bytes a second; 0 for no limit.
    bps_total "bps-total" 0,
    /// Bytes a second read.
    bps_read "bps-read" 0,
    /// Bytes a second written.
    bps_write "bps-write" 0,
    /// Requests a second.
    iops_total "iops-total" 0,
    /// Reads a second.
    iops_read "iops-read" 0,
    /// Writes a second.
    iops_write "iops-write" 0,
    /// Bytes a second in a burst.
    bps_total_max "bps-total-max" 0,
    /// Bytes a second read in a burst.
    bps_read_max "bps-read-max" 0,
    /// Bytes a second written in a burst.
    bps_write_max "bps-write-max" 0,
    /// Requests a second in a burst.
    iops_total_max "iops-total-max" 0,
    /// Reads a second in a burst.
    iops_read_max "iops-read-max" 0,
    /// Writes a second in a burst.
    iops_write_max "iops-write-max" 0,
    /// Seconds that a burst may last.
    bps_total_max_length "bps-total-max-length" 1,
    /// Seconds that a burst of reads may last.
    bps_read_max_length "bps-read-max-length" 1,
    /// Seconds that a burst of writes may last.
    bps_write_max_length "bps-write-max-length" 1,
    /// Seconds that a burst may last.
    iops_total_max_length "iops-total-max-length" 1,
    /// Seconds that a burst of reads may last.
    iops_read_max_length "iops-read-max-length" 1,
    /// Seconds that a burst of writes may last.
    iops_write_max_length "iops-write-max-length" 1,
    /// Bytes that count as one request; 0 for any number.
    iops_size "iops-size" 0,
}

impl ThrottleLimits {
    /// Refuses limits that contradict each other.
    ///
    /// # Errors
    /// The first contradiction, in QEMU's words.
    pub fn check(&self) -> Result<(), SpecError> {
        let both = |total: u64, read: u64, write: u64| total != 0 && (read != 0 || write != 0);
        if both(self.bps_total, self.bps_read, self.bps_write)
            || both(self.iops_total, self.iops_read, self.iops_write)
            || both(self.bps_total_max, self.bps_read_max, self.bps_write_max)
            || both(self.iops_total_max, self.iops_read_max, self.iops_write_max)
        {
            return Err(SpecError::new(
                "bps/iops/max total values and read/write values cannot be used at the same time",
            ));
        }
        let bursts = [
            (self.bps_total, self.bps_total_max),
            (self.bps_read, self.bps_read_max),
            (self.bps_write, self.bps_write_max),
            (self.iops_total, self.iops_total_max),
            (self.iops_read, self.iops_read_max),
            (self.iops_write, self.iops_write_max),
        ];
        if bursts.iter().any(|&(rate, burst)| burst != 0 && rate == 0) {
            return Err(SpecError::new("bps_max/iops_max require corresponding bps/iops values"));
        }
        if bursts.iter().any(|&(rate, burst)| burst != 0 && burst < rate) {
            return Err(SpecError::new("bps_max/iops_max cannot be lower than bps/iops"));
        }
        Ok(())
    }
}

/// `x-iops-total` is the older way to write `limits.iops-total`.
fn nest_limits(object: &mut Map<String, Value>) {
    let old: Vec<String> = object.keys().filter(|key| key.starts_with("x-")).cloned().collect();
    let mut limits = object.remove("limits").unwrap_or_else(|| Value::Object(Map::new()));
    if let Value::Object(limits) = &mut limits {
        for key in old {
            limits.extend(object.remove(&key).map(|value| (key["x-".len()..].to_owned(), value)));
        }
    }
    object.insert("limits".to_owned(), limits);
}

spec_struct! {
    /// Limits that several disks share.
    pub struct ThrottleGroupSpec as "throttle-group" {
        /// Name of the object.
        pub id: String,
        /// The limits.
        pub limits: ThrottleLimits = ThrottleLimits::default(),
    }
}

impl IothreadSpec {
    /// The name of the thread.
    #[must_use]
    pub fn thread_name(&self) -> String {
        format!("IO {}", self.id)
    }
}

impl ObjectSpec {
    /// Reads the properties, with `qom-type` among them, and checks those that depend on each other.
    ///
    /// # Errors
    /// One sentence, in the words of `-object` and `object-add`.
    pub fn read(mut object: Map<String, Value>, source: Source) -> Result<Self, SpecError> {
        let words = |_: &'static _| Words::Parameters;
        if object.get("qom-type").is_some_and(|kind| kind == "throttle-group") {
            nest_limits(&mut object);
        }
        let spec: Self = read::read_union(object, source, words, Self::variant)?;
        super::check_id(spec.id())?;
        spec.check()?;
        Ok(spec)
    }

    /// The type of this name.
    ///
    /// # Errors
    /// There is none, in QEMU's words.
    pub fn variant(name: &str) -> Result<&'static Variant, SpecError> {
        let union = Self::UNION;
        union.find(name).ok_or_else(|| SpecError::not_one_of("qom-type", name, &union.names()))
    }

    fn check(&self) -> Result<(), SpecError> {
        match self {
            Self::MemoryRam(spec) => spec.common.check(),
            Self::MemoryMemfd(spec) if !spec.seal => Err(SpecError::refused("'seal=off'", "leave it on")),
            Self::MemoryMemfd(spec) if spec.hugetlbsize.is_some() && !spec.hugetlb => {
                Err(SpecError::new("'hugetlbsize' goes with 'hugetlb=on'"))
            }
            Self::MemoryMemfd(spec) => spec.common.check(),
            Self::MemoryFile(spec) if spec.readonly => Err(SpecError::refused("'readonly=on'", "leave it off")),
            Self::MemoryFile(spec) if spec.pmem => Err(SpecError::refused("'pmem=on'", "leave it off")),
            Self::MemoryFile(spec) if spec.discard_data => Err(SpecError::refused("'discard-data=on'", "leave it off")),
            Self::MemoryFile(spec) => spec.common.check(),
            Self::RngRandom(_) | Self::RngBuiltin(_) => Ok(()),
            Self::Iothread(spec) => spec.check(),
            Self::Secret(spec) => spec.check(),
            Self::ThrottleGroup(spec) => spec.limits.check(),
        }
    }

    /// What all guest memory has; nothing for an object that is no memory.
    #[must_use]
    pub fn memory(&self) -> Option<&MemoryCommon> {
        match self {
            Self::MemoryRam(spec) => Some(&spec.common),
            Self::MemoryMemfd(spec) => Some(&spec.common),
            Self::MemoryFile(spec) => Some(&spec.common),
            _ => None,
        }
    }

    /// The `id=`.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::MemoryRam(spec) => &spec.common.id,
            Self::MemoryMemfd(spec) => &spec.common.id,
            Self::MemoryFile(spec) => &spec.common.id,
            Self::RngRandom(spec) => &spec.id,
            Self::RngBuiltin(spec) => &spec.id,
            Self::Iothread(spec) => &spec.id,
            Self::Secret(spec) => &spec.id,
            Self::ThrottleGroup(spec) => &spec.id,
        }
    }
}

/// Greatest `thread-pool-max`, as in QEMU.
const MOST_WORKERS: i64 = i32::MAX as i64;
/// Greatest `thread-pool-min`: that many threads are started at once.
const MOST_KEPT: i64 = 1024;

impl IothreadSpec {
    fn check(&self) -> Result<(), SpecError> {
        let values = [
            ("poll-max-ns", self.poll_max_ns),
            ("poll-grow", self.poll_grow),
            ("poll-shrink", self.poll_shrink),
            ("aio-max-batch", self.aio_max_batch),
            ("thread-pool-min", self.thread_pool_min),
            ("thread-pool-max", self.thread_pool_max),
        ];
        match values.iter().find(|(_, value)| *value < 0) {
            Some((name, _)) => Err(SpecError::new(format!("{name} value must be in range [0, {}]", i64::MAX))),
            None if self.thread_pool_min > self.thread_pool_max
                || !(1..=MOST_WORKERS).contains(&self.thread_pool_max) =>
            {
                Err(SpecError::new("bad thread-pool-min/thread-pool-max values"))
            }
            None if self.thread_pool_min > MOST_KEPT => {
                Err(SpecError::new(format!("thread-pool-min {} is more than {MOST_KEPT}", self.thread_pool_min)))
            }
            None => Ok(()),
        }
    }
}
