//! `info`: what the machine is and does, for people.

use crate::qmp::channel::ApicOf;
use crate::qmp::reply::cpu::{CpuInfoFast, HotpluggableCpu};
use crate::qmp::reply::machine::{IoThreadInfo, KvmInfo, Memdev, MemoryInfo, NameInfo, StatusInfo, UuidInfo};
use crate::qmp::reply::migration::MigrationCapabilityStatus;
use crate::qmp::reply::monitor::ChardevInfo;
use crate::qmp::{Command, Inspect, Inspection, RunState};

use super::commands::{Entry, Failure, Printed, Words};
use super::{Context, info_block, info_pci};

/// All topics, by name.
pub(crate) const TOPICS: &[Entry] = &[
    Entry {
        names: "balloon",
        parameters: "",
        words: 0,
        help: "show balloon information",
        run: |context, _| Ok(format!("{}\n", context.run(Command::QueryBalloon)?)),
    },
    Entry {
        names: "block",
        parameters: "[-n] [-v] [device]",
        words: 3,
        help: "show info of one block device or all block devices (-n: show named nodes; -v: show details)",
        run: info_block::block,
    },
    Entry {
        names: "block-jobs",
        parameters: "",
        words: 0,
        help: "show progress of ongoing block device operations",
        run: info_block::jobs,
    },
    Entry {
        names: "blockstats",
        parameters: "",
        words: 0,
        help: "show block device statistics",
        run: info_block::stats,
    },
    Entry { names: "chardev", parameters: "", words: 0, help: "show the character devices", run: chardev },
    Entry { names: "cpus", parameters: "", words: 0, help: "show infos for each CPU", run: cpus },
    Entry {
        names: "hotpluggable-cpus",
        parameters: "",
        words: 0,
        help: "show information about hotpluggable CPUs",
        run: hotpluggable_cpus,
    },
    Entry { names: "iothreads", parameters: "", words: 0, help: "show iothreads", run: iothreads },
    Entry {
        names: "irq",
        parameters: "",
        words: 0,
        help: "show the interrupts statistics",
        run: |context, _| text(context, Inspect::InterruptCounts),
    },
    Entry { names: "kvm", parameters: "", words: 0, help: "show KVM information", run: kvm },
    Entry {
        names: "lapic",
        parameters: "[apic-id]",
        words: 1,
        help: "show local apic state (apic-id: local apic to read, default is which of current CPU)",
        run: lapic,
    },
    Entry {
        names: "mem",
        parameters: "",
        words: 0,
        help: "show the active virtual memory mappings",
        run: |context, _| {
            let cpu = context.cpu;
            text(context, Inspect::Paging { cpu, pages: false })
        },
    },
    Entry { names: "memdev", parameters: "", words: 0, help: "show memory backends", run: memdev },
    Entry {
        names: "memory-devices",
        parameters: "",
        words: 0,
        help: "show memory devices",
        // There are none: query-memory-devices is an empty list.
        run: |_, _| Ok(String::new()),
    },
    Entry {
        names: "memory_size_summary",
        parameters: "",
        words: 0,
        help: "show the amount of initially allocated and present hotpluggable (if enabled) memory in bytes",
        run: memory_sizes,
    },
    Entry {
        names: "migrate_capabilities",
        parameters: "",
        words: 0,
        help: "show current migration capabilities",
        run: |context, _| {
            let all: Vec<MigrationCapabilityStatus> = context.ask(Command::QueryMigrateCapabilities)?;
            let switch = |on: bool| if on { "on" } else { "off" };
            Ok(all.iter().map(|one| format!("{}: {}\n", one.capability, switch(one.state))).collect())
        },
    },
    Entry {
        names: "mtree",
        parameters: "",
        words: 0,
        help: "show memory tree",
        run: |context, _| text(context, Inspect::MemoryTree),
    },
    Entry { names: "name", parameters: "", words: 0, help: "show the current VM name", run: name },
    Entry { names: "network", parameters: "", words: 0, help: "show the network state", run: |_, _| Ok(String::new()) },
    Entry {
        names: "numa",
        parameters: "",
        words: 0,
        help: "show NUMA information",
        run: |context, _| text(context, Inspect::NumaNodes),
    },
    Entry { names: "pci", parameters: "", words: 0, help: "show PCI info", run: info_pci::pci },
    Entry {
        names: "pic",
        parameters: "",
        words: 0,
        help: "show PIC state",
        run: |context, _| text(context, Inspect::InterruptControllers),
    },
    Entry {
        names: "qom-tree",
        parameters: "[path]",
        words: 1,
        help: "show QOM composition tree",
        run: |context, words| {
            let path = words.get(0).unwrap_or("/machine").to_owned();
            text(context, Inspect::ObjectTree { path })
        },
    },
    Entry {
        names: "qtree",
        parameters: "",
        words: 0,
        help: "show device tree",
        run: |context, _| text(context, Inspect::DeviceTree),
    },
    Entry {
        names: "registers",
        parameters: "[-a|vcpu]",
        words: 1,
        help: "show the cpu registers (-a: show register info for all cpus; vcpu: specific vCPU to query)",
        run: registers,
    },
    Entry {
        names: "roms",
        parameters: "",
        words: 0,
        help: "show roms",
        run: |context, _| text(context, Inspect::Roms),
    },
    Entry {
        names: "snapshots",
        parameters: "",
        words: 0,
        help: "show the currently saved VM snapshots",
        run: info_block::snapshots,
    },
    Entry {
        names: "status",
        parameters: "",
        words: 0,
        help: "show the current VM status (running|paused)",
        run: status,
    },
    Entry {
        names: "tlb",
        parameters: "",
        words: 0,
        help: "show virtual to physical memory mappings",
        run: |context, _| {
            let cpu = context.cpu;
            text(context, Inspect::Paging { cpu, pages: true })
        },
    },
    Entry { names: "uuid", parameters: "", words: 0, help: "show the current VM UUID", run: uuid },
    Entry {
        names: "version",
        parameters: "",
        words: 0,
        help: "show the version of QEMU",
        run: |context, _| Ok(format!("{}\n", context.version())),
    },
];

fn text(context: &mut Context<'_>, query: Inspect) -> Printed {
    match context.inspect(query)? {
        Inspection::Text(text) => Ok(text),
        Inspection::Bytes(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn status(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let info: StatusInfo = context.ask(Command::QueryStatus)?;
    let word = if info.running { "running" } else { "paused" };
    let why = match info.status {
        RunState::Running | RunState::Paused => String::new(),
        other => format!(" ({other})"),
    };
    Ok(format!("VM status: {word}{why}\n"))
}

fn name(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let info: NameInfo = context.ask(Command::QueryName)?;
    Ok(info.name.map(|name| format!("{name}\n")).unwrap_or_default())
}

fn uuid(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let info: UuidInfo = context.ask(Command::QueryUuid)?;
    Ok(format!("{}\n", info.uuid))
}

fn kvm(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let info: KvmInfo = context.ask(Command::QueryKvm)?;
    let state = match info {
        KvmInfo { present: false, .. } => "not compiled",
        KvmInfo { enabled: true, .. } => "enabled",
        KvmInfo { enabled: false, .. } => "disabled",
    };
    Ok(format!("kvm support: {state}\n"))
}

fn chardev(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let devices: Vec<ChardevInfo> = context.ask(Command::QueryChardev)?;
    Ok(devices.iter().map(|device| format!("{}: filename={}\n", device.label, device.filename)).collect())
}

fn cpus(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let cpus: Vec<CpuInfoFast> = context.ask(Command::QueryCpusFast)?;
    let line = |cpu: &CpuInfoFast| {
        let mark = if cpu.cpu_index == i64::from(context.cpu) { '*' } else { ' ' };
        format!("{mark} CPU #{}: thread_id={}\n", cpu.cpu_index, cpu.thread_id)
    };
    Ok(cpus.iter().map(line).collect())
}

fn hotpluggable_cpus(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let cpus: Vec<HotpluggableCpu> = context.ask(Command::QueryHotpluggableCpus)?;
    let one = |cpu: &HotpluggableCpu| {
        let HotpluggableCpu { r#type, vcpus_count, props, qom_path } = cpu;
        let path = qom_path.as_ref().map(|path| format!("  qom_path: \"{path}\"\n")).unwrap_or_default();
        let ids = [
            ("node-id", props.node_id),
            ("socket-id", props.socket_id),
            ("die-id", props.die_id),
            ("core-id", props.core_id),
            ("thread-id", props.thread_id),
        ];
        let ids: String = ids.iter().filter_map(|(name, id)| Some(format!("    {name}: \"{}\"\n", (*id)?))).collect();
        format!("  type: \"{type}\"\n  vcpus_count: \"{vcpus_count}\"\n{path}  CPUInstance Properties:\n{ids}")
    };
    Ok(format!("Hotpluggable CPUs:\n{}", cpus.iter().map(one).collect::<String>()))
}

fn memory_sizes(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let memory: MemoryInfo = context.ask(Command::QueryMemorySizeSummary)?;
    let plugged = memory.plugged_memory.map(|plugged| format!("plugged memory: {plugged}\n")).unwrap_or_default();
    Ok(format!("base memory: {}\n{plugged}", memory.base_memory))
}

fn iothreads(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let threads: Vec<IoThreadInfo> = context.ask(Command::QueryIothreads)?;
    let lines = |thread: &IoThreadInfo| {
        let IoThreadInfo { id, thread_id, poll_max_ns, poll_grow, poll_shrink, aio_max_batch } = thread;
        format!(
            "{id}:\n  thread_id={thread_id}\n  poll-max-ns={poll_max_ns}\n  poll-grow={poll_grow}\n  \
             poll-shrink={poll_shrink}\n  aio-max-batch={aio_max_batch}\n"
        )
    };
    Ok(threads.iter().map(lines).collect())
}

fn memdev(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let backends: Vec<Memdev> = context.ask(Command::QueryMemdev)?;
    let lines = |backend: &Memdev| {
        let nodes: Vec<String> = backend.host_nodes.iter().map(ToString::to_string).collect();
        format!(
            "memory backend: {}\n  size:  {}\n  merge: {}\n  dump: {}\n  prealloc: {}\n  share: {}\n{}  policy: {}\n  \
             host nodes: {}\n",
            backend.id.as_deref().unwrap_or_default(),
            backend.size,
            backend.merge,
            backend.dump,
            backend.prealloc,
            backend.share,
            backend.reserve.map(|reserve| format!("  reserve: {reserve}\n")).unwrap_or_default(),
            backend.policy,
            nodes.join(",")
        )
    };
    let text: String = backends.iter().map(lines).collect();
    Ok(text + "\n")
}

fn registers(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let cpu = match words.get(0) {
        None => Some(context.cpu),
        Some("-a") => None,
        Some(word) => Some(word.parse().map_err(|_| Failure::Usage("invalid CPU index".into()))?),
    };
    text(context, Inspect::Registers { cpu })
}

fn lapic(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let of = match words.get(0) {
        None => ApicOf::Cpu(context.cpu),
        Some(word) => ApicOf::Id(word.parse().map_err(|_| Failure::Usage("invalid APIC id".into()))?),
    };
    text(context, Inspect::LocalApic { of })
}
