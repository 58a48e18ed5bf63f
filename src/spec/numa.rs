//! `-numa`: the guest's memory and vCPUs by node, and how far nodes are from each other.

use serde_json::{Map, Value};

use super::describe::{DescribeUnion, Variant};
use super::error::{Shown, SpecError, Words};
use super::number::ByteSize;
use super::object::ObjectSpec;
use super::read::{self, Source};
use super::topology::SmpSpec;

/// Most nodes of a machine, as in QEMU.
const MOST_NODES: usize = 128;
/// Distance of a node to itself, the least there is (ACPI 6.5, 5.2.17).
const LOCAL: u8 = 10;

spec_union! {
    /// `-numa` as written.
    pub enum NumaOptions by "type" {
        /// A node.
        Node(NumaNodeOptions) = "node",
        /// How far one node is from another.
        Dist(NumaDistOptions) = "dist",
    }
}

spec_struct! {
    /// A node.
    pub struct NumaNodeOptions as "NumaNodeOptions" {
        /// Its number; the next one when not given.
        pub nodeid: Option<u16>,
        /// vCPUs of the node: a number or a range such as 0-3; may be given several times.
        pub cpus: Vec<String>,
        /// Bytes of memory; a number without a suffix counts MiB.
        pub mem: Option<ByteSize>,
        /// The memory object that is the node's memory.
        pub memdev: Option<String>,
    }
}

spec_struct! {
    /// How far one node is from another.
    pub struct NumaDistOptions as "NumaDistOptions" {
        /// The node that accesses.
        pub src: u16,
        /// The node that is accessed.
        pub dst: u16,
        /// The distance, 10 for a node and itself; 255 for out of reach.
        pub val: u8,
    }
}

/// The nodes of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumaSpec {
    /// The nodes by number; none on a machine without.
    pub nodes: Vec<NumaNode>,
    /// The node of each vCPU, those that are not there from the start included.
    pub of_cpu: Vec<u32>,
    /// Distances `(from, to, value)` as given.
    pub distances: Vec<(u32, u32, u8)>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// Bytes of memory; may be 0.
    pub memory: u64,
    /// The memory object, on all nodes with memory or on none.
    pub memdev: Option<String>,
}

/// What `-numa` is looked at beside.
pub struct Beside<'a> {
    /// The vCPUs.
    pub smp: &'a SmpSpec,
    /// All memory, in bytes.
    pub memory: u64,
    /// The objects.
    pub objects: &'a [ObjectSpec],
    /// `-machine memory-backend=`.
    pub memory_backend: Option<&'a str>,
}

impl NumaOptions {
    /// Reads the properties, with `type` among them.
    ///
    /// # Errors
    /// One sentence, in QEMU's words.
    pub fn read(object: Map<String, Value>, source: Source) -> Result<Self, SpecError> {
        let words = |_: &'static _| Words::Options;
        read::read_union(object, source, words, Self::variant)
    }

    fn variant(name: &str) -> Result<&'static Variant, SpecError> {
        match name {
            "cpu" => Err(SpecError::refused("'-numa cpu'", "give vCPUs by number with -numa node,cpus=")),
            "hmat-lb" | "hmat-cache" => Err(SpecError::refused(
                format_args!("'-numa {name}'"),
                "leave it out; -numa dist says how far nodes are",
            )),
            _ => Self::UNION.find(name).ok_or_else(|| SpecError::not_one_of("type", name, &Self::UNION.names())),
        }
    }
}

impl NumaSpec {
    /// Puts all `-numa` together. `warn` takes what deserves a word.
    ///
    /// # Errors
    /// They contradict each other, or what stands beside them.
    pub fn resolve(options: &[NumaOptions], beside: &Beside<'_>, warn: &mut Vec<String>) -> Result<Self, SpecError> {
        let nodes = number_nodes(options)?;
        if nodes.is_empty() && options.is_empty() {
            return Ok(Self::default());
        }
        let memory = nodes.iter().map(|node| memory_of(node, beside)).collect::<Result<Vec<_>, _>>()?;
        check_memory(&memory, beside)?;
        Ok(Self {
            of_cpu: assign_cpus(&nodes, beside.smp, warn)?,
            distances: distances(options, memory.len())?,
            nodes: memory,
        })
    }
}

/// The nodes in the order of their numbers, which have no gaps.
fn number_nodes(options: &[NumaOptions]) -> Result<Vec<&NumaNodeOptions>, SpecError> {
    let mut numbered: Vec<Option<&NumaNodeOptions>> = Vec::new();
    let mut count = 0;
    for option in options {
        let NumaOptions::Node(node) = option else { continue };
        let number = node.nodeid.map_or(count, usize::from);
        if number >= MOST_NODES {
            return Err(SpecError::new(format!("Max number of NUMA nodes reached: {MOST_NODES}")));
        }
        if numbered.len() <= number {
            numbered.resize(number + 1, None);
        }
        if numbered[number].replace(node).is_some() {
            return Err(SpecError::new(format!("Duplicate NUMA nodeid: {number}")));
        }
        count += 1;
    }
    let missing = |number| SpecError::new(format!("numa: Node ID missing: {number}"));
    numbered.into_iter().enumerate().map(|(number, node)| node.ok_or_else(|| missing(number))).collect()
}

fn memory_of(node: &NumaNodeOptions, beside: &Beside<'_>) -> Result<NumaNode, SpecError> {
    match (&node.memdev, node.mem) {
        (Some(_), Some(_)) => Err(SpecError::new("cannot specify both mem= and memdev=")),
        (None, mem) => Ok(NumaNode { memory: mem.map_or(0, |size| size.0), memdev: None }),
        (Some(id), None) => {
            let object = beside.objects.iter().find(|object| object.id() == id);
            let Some(common) = object.and_then(ObjectSpec::memory) else {
                return Err(SpecError::new(format!(
                    "memdev={} is not found; define it with -object memory-backend-ram,id=...",
                    Shown(id)
                )));
            };
            Ok(NumaNode { memory: common.size.0, memdev: Some(id.clone()) })
        }
    }
}

fn check_memory(nodes: &[NumaNode], beside: &Beside<'_>) -> Result<(), SpecError> {
    let named: Vec<&str> = nodes.iter().filter_map(|node| node.memdev.as_deref()).collect();
    if !named.is_empty() && nodes.iter().any(|node| node.memdev.is_none() && node.memory > 0) {
        return Err(SpecError::new("numa: memdev option must be specified for either all or no nodes"));
    }
    if !named.is_empty() && beside.memory_backend.is_some() {
        let sentence = "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive";
        return Err(SpecError::new(sentence));
    }
    if let Some((_, twice)) = named.iter().enumerate().find(|(index, id)| named[..*index].contains(id)) {
        return Err(SpecError::new(format!(
            "memory backend {} is used multiple times. Each -numa option must use a different memdev value.",
            Shown(twice)
        )));
    }
    let total = nodes.iter().map(|node| node.memory).fold(0, u64::saturating_add);
    if total != beside.memory {
        return Err(SpecError::new(format!(
            "total memory for NUMA nodes ({total:#x}) should equal RAM size ({:#x}); give each node memdev= or mem=",
            beside.memory
        )));
    }
    Ok(())
}

/// The node of each vCPU.
fn assign_cpus(nodes: &[&NumaNodeOptions], smp: &SmpSpec, warn: &mut Vec<String>) -> Result<Vec<u32>, SpecError> {
    let mut of_cpu: Vec<Option<u32>> = vec![None; smp.maxcpus as usize];
    for (number, node) in (0u32..).zip(nodes) {
        for range in &node.cpus {
            let (first, last) = cpu_range(range)?;
            let beyond =
                || SpecError::new(format!("CPU index ({last}) should be smaller than maxcpus ({})", smp.maxcpus));
            let cpus = of_cpu.get_mut(first as usize..=last as usize).ok_or_else(beyond)?;
            for (cpu, place) in (first..).zip(cpus) {
                if let Some(other) = place.replace(number) {
                    return Err(SpecError::new(format!("CPU {cpu} is already assigned to NUMA node {other}")));
                }
            }
        }
    }
    if of_cpu.iter().all(Option::is_none) {
        // Whole sockets, in turn.
        let per_socket = smp.dies * smp.cores * smp.threads;
        let count = u32::try_from(nodes.len()).unwrap_or(1).max(1);
        return Ok((0..smp.maxcpus).map(|cpu| cpu / per_socket % count).collect());
    }
    let left: Vec<String> =
        of_cpu.iter().enumerate().filter(|(_, node)| node.is_none()).map(|(cpu, _)| cpu.to_string()).collect();
    if !left.is_empty() {
        warn.push(format!("-numa: vCPUs {} are in no node and go to node 0", left.join(", ")));
    }
    Ok(of_cpu.into_iter().map(|node| node.unwrap_or(0)).collect())
}

/// `3` or `0-3`.
fn cpu_range(text: &str) -> Result<(u32, u32), SpecError> {
    let wrong = || SpecError::expects("cpus", "a number or a range such as 0-3");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().map(u32::from).map_err(|_| wrong());
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}

fn distances(options: &[NumaOptions], nodes: usize) -> Result<Vec<(u32, u32, u8)>, SpecError> {
    let mut given = Vec::new();
    for option in options {
        let NumaOptions::Dist(dist) = option else { continue };
        let (from, to) = (u32::from(dist.src), u32::from(dist.dst));
        if [from, to].iter().any(|node| *node as usize >= nodes) {
            return Err(SpecError::new(
                "Source/Destination NUMA node is missing. Please use '-numa node' option to declare it first.",
            ));
        }
        if dist.val < LOCAL {
            return Err(SpecError::new(format!(
                "NUMA distance ({}) is invalid, it shouldn't be less than {LOCAL}.",
                dist.val
            )));
        }
        if from == to && dist.val != LOCAL {
            return Err(SpecError::new(format!("Local distance of node {from} should be {LOCAL}.")));
        }
        given.retain(|(a, b, _)| (*a, *b) != (from, to));
        given.push((from, to, dist.val));
    }
    let known = |a, b| given.iter().any(|(from, to, _)| (*from, *to) == (a, b));
    let count = u32::try_from(nodes).unwrap_or(0);
    let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    if !given.is_empty()
        && let Some((a, b)) = pairs.into_iter().find(|&(a, b)| !known(a, b) && !known(b, a))
    {
        return Err(SpecError::new(format!(
            "The distance between node {a} and {b} is missing, at least one distance value between each nodes should \
             be provided."
        )));
    }
    Ok(given)
}
