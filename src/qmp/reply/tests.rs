//! Replies of QEMU 7.2 are read into our types and written again without loss: the member names are the same.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::*;

fn survives<T: Serialize + DeserializeOwned>(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), value);
}

#[test]
fn machine_replies_have_qemus_members() {
    survives::<machine::StatusInfo>(r#"{"status": "prelaunch", "singlestep": false, "running": false}"#);
    survives::<machine::UuidInfo>(r#"{"UUID": "11111111-2222-3333-4444-666666666666"}"#);
    survives::<machine::MemoryInfo>(r#"{"base-memory": 67108864, "plugged-memory": 0}"#);
    survives::<Vec<machine::Memdev>>(
        r#"[{"share": false, "reserve": true, "prealloc": false, "host-nodes": [], "size": 67108864, "merge": true,
        "dump": true, "policy": "default", "id": "pc.ram"}]"#,
    );
    survives::<Vec<machine::IoThreadInfo>>(
        r#"[{"poll-shrink": 0, "thread-id": 13788, "aio-max-batch": 0, "poll-grow": 0, "poll-max-ns": 32768,
        "id": "io1"}]"#,
    );
}

#[test]
fn cpu_replies_have_qemus_members() {
    survives::<Vec<cpu::CpuInfoFast>>(
        r#"[{"thread-id": 13791, "props": {"core-id": 0, "thread-id": 0, "socket-id": 0},
        "qom-path": "/machine/unattached/device[0]", "cpu-index": 0, "target": "x86_64"}]"#,
    );
    survives::<Vec<cpu::HotpluggableCpu>>(
        r#"[{"props": {"core-id": 0, "thread-id": 0, "socket-id": 0}, "vcpus-count": 1,
        "qom-path": "/machine/unattached/device[0]", "type": "qemu64-x86_64-cpu"}]"#,
    );
    survives::<cpu::CpuDefinitionInfo>(
        r#"{"name": "qemu64", "typename": "qemu64-x86_64-cpu", "unavailable-features": [], "alias-of": "qemu64-v1",
        "static": false, "migration-safe": true, "deprecated": false}"#,
    );
}

#[test]
fn pci_reply_has_qemus_members() {
    survives::<Vec<device::PciInfo>>(
        r#"[{"bus": 0, "devices": [{"irq_pin": 1, "bus": 0, "qdev_id": "vd0", "irq": 0, "slot": 2, "class_info":
        {"class": 256, "desc": "SCSI controller"}, "id": {"device": 4097, "subsystem-vendor": 6900, "vendor": 6900,
        "subsystem": 2}, "function": 0, "regions": [{"bar": 0, "size": 128, "address": -1, "type": "io"},
        {"prefetch": true, "mem_type_64": true, "bar": 4, "size": 16384, "address": -1, "type": "memory"}]}]}]"#,
    );
}

#[test]
fn block_replies_have_qemus_members() {
    survives::<Vec<block::BlockInfo>>(
        r#"[{"io-status": "ok", "device": "", "locked": false, "removable": false, "inserted": {"iops_rd": 0,
        "detect_zeroes": "off", "image": {"virtual-size": 1048576, "filename": "x", "format": "null-co",
        "actual-size": 0}, "iops_wr": 0, "ro": false, "node-name": "n0", "backing_file_depth": 0, "drv": "null-co",
        "iops": 0, "bps_wr": 0, "write_threshold": 0, "encrypted": false, "bps": 0, "bps_rd": 0,
        "cache": {"no-flush": false, "direct": false, "writeback": true}, "file": "x"},
        "qdev": "/machine/peripheral/vd0/virtio-backend", "type": "unknown"}]"#,
    );
    survives::<Vec<block::BlockStats>>(
        r#"[{"device": "", "stats": {"unmap_operations": 0, "unmap_merged": 0, "flush_total_time_ns": 0,
        "wr_highest_offset": 0, "wr_total_time_ns": 0, "failed_wr_operations": 0, "failed_rd_operations": 0,
        "wr_merged": 0, "wr_bytes": 0, "timed_stats": [], "failed_unmap_operations": 0, "failed_flush_operations": 0,
        "account_invalid": true, "rd_total_time_ns": 0, "invalid_unmap_operations": 0, "flush_operations": 0,
        "wr_operations": 0, "unmap_bytes": 0, "rd_merged": 0, "rd_bytes": 0, "unmap_total_time_ns": 0,
        "invalid_flush_operations": 0, "account_failed": true, "rd_operations": 0, "invalid_wr_operations": 0,
        "invalid_rd_operations": 0}, "node-name": "n0", "qdev": "/machine/peripheral/vd0/virtio-backend"}]"#,
    );
}

#[test]
fn monitor_and_object_replies_have_qemus_members() {
    survives::<monitor::VersionInfo>(r#"{"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}"#);
    survives::<Vec<monitor::ChardevInfo>>(r#"[{"frontend-open": false, "filename": "pty:/dev/pts/0", "label": "c1"}]"#);
    survives::<Vec<monitor::CommandLineOptionInfo>>(
        r#"[{"parameters": [{"name": "pretty", "type": "boolean"}, {"name": "mode", "type": "string"}],
        "option": "mon"}]"#,
    );
    survives::<Vec<device::ObjectPropertyInfo>>(
        r#"[{"default-value": 4294967295, "name": "irq", "type": "uint32"},
        {"name": "chardev", "description": "ID of a chardev to use as a backend", "type": "str"}]"#,
    );
}

#[test]
fn block_graph_answers_with_the_members_of_the_schema() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let graph = rhea_block::graph::Graph::new();
    let file = serde_json::json!({"driver": "file", "filename": image.path()});
    let spec = serde_json::json!({"driver": "raw", "node-name": "disk", "file": file});
    graph.add(&serde_json::from_value(spec).unwrap()).unwrap();

    let told = serde_json::to_value(graph.info(100).unwrap()).unwrap();
    let read: Vec<block::BlockDeviceInfo> = serde_json::from_value(told.clone()).unwrap();

    assert_eq!(serde_json::to_value(read).unwrap(), told);
}
