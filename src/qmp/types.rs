//! The types of objects and the options of the command line, for managers that look before they ask: `qom-list-types`,
//! `qom-list-properties`, `device-list-properties`, `query-command-line-options`. All of it comes from [`crate::spec`].

use serde_json::json;

use super::error::{ErrorClass, QmpError};
use super::reply::device::{ObjectPropertyInfo, ObjectTypeInfo};
use super::reply::monitor::{CommandLineOptionInfo, CommandLineParameterInfo, CommandLineParameterType};
use crate::spec::boot::BootOptions;
use crate::spec::chardev::ChardevSpec;
use crate::spec::describe::{Describe, DescribeUnion, Description, Kind, Prop, Variant};
use crate::spec::device::DeviceSpec;
use crate::spec::drive::DriveOptions;
use crate::spec::machine::{AccelOptions, MACHINES, MachineOptions};
use crate::spec::memory::MemoryOptions;
use crate::spec::object::ObjectSpec;
use crate::spec::process::{AddFdSpec, MonitorSpec, MsgSpec, NameSpec, OvercommitSpec, RtcOptions, SandboxSpec};
use crate::spec::topology::SmpOptions;

/// A type of object.
struct Type {
    name: String,
    parent: &'static str,
    properties: Vec<ObjectPropertyInfo>,
}

/// The types of vCPUs.
#[derive(Debug, Default)]
pub struct CpuTypes {
    /// `max-x86_64-cpu` and so on.
    pub names: Vec<String>,
    /// The properties that all have, and QOM's names of their types.
    pub properties: Vec<(&'static str, &'static str)>,
}

/// The vCPU that is what the host is; it has a property more.
const HOST_CPUS: [&str; 2] = ["host-x86_64-cpu", "max-x86_64-cpu"];

/// What stands for the kinds of types, without properties of their own, and what kind each is.
const ABSTRACT: [(&str, &str); 21] = [
    ("cpu", "device"),
    ("device", "object"),
    ("event-loop-base", "object"),
    ("generic-pc-machine", "x86-machine"),
    ("ide-device", "device"),
    ("isa-device", "device"),
    ("machine", "object"),
    ("memory-backend", "object"),
    ("pci-device", "device"),
    ("pit-common", "isa-device"),
    ("rng-backend", "object"),
    ("scsi-device", "device"),
    ("scsi-disk-base", "scsi-device"),
    ("secret_common", "object"),
    ("user-creatable", "interface"),
    ("virtio-blk-pci-base", "virtio-pci"),
    ("virtio-pci", "pci-device"),
    ("virtio-rng-pci-base", "virtio-pci"),
    ("virtio-scsi-pci-base", "virtio-pci"),
    ("x86-machine", "machine"),
    ("x86_64-cpu", "cpu"),
];

/// The kind that a device is, by its name and by where it sits.
fn device_parent(device: &Variant) -> &'static str {
    match device.name {
        "ide-cd" | "ide-hd" => "ide-device",
        "scsi-cd" | "scsi-hd" => "scsi-disk-base",
        "virtio-blk-pci" => "virtio-blk-pci-base",
        "virtio-rng-pci" => "virtio-rng-pci-base",
        "virtio-scsi-pci" => "virtio-scsi-pci-base",
        _ if device.description.find("addr").is_some() => "pci-device",
        _ => "isa-device",
    }
}

/// Of all the board's own chips those that `-global` can change.
fn chips() -> Vec<Type> {
    let policy = ObjectPropertyInfo {
        name: "lost_tick_policy".into(),
        r#type: "LostTickPolicy".into(),
        description: None,
        default_value: Some(json!(crate::spec::LostTicks::default())),
    };
    vec![Type { name: "kvm-pit".into(), parent: "pit-common", properties: vec![policy] }]
}

/// Everything there is; `cpus` are the models' types.
fn all(cpus: &CpuTypes) -> Vec<Type> {
    let devices = DeviceSpec::UNION.variants.iter().map(|device| Type {
        name: device.name.into(),
        parent: device_parent(device),
        properties: properties(device.description, &["id", "bus"], Prop::type_name),
    });
    let objects = ObjectSpec::UNION.variants.iter().map(|object| Type {
        name: object.name.into(),
        parent: match (object.name, object.name.split_once('-')) {
            (_, Some(("memory", _))) => "memory-backend",
            (_, Some(("rng", _))) => "rng-backend",
            ("iothread", _) => "event-loop-base",
            ("secret", _) => "secret_common",
            _ => "object",
        },
        properties: properties(object.description, &["id"], |prop| prop.kind.object_name()),
    });
    // The machine without anything is what managers look at first.
    let machines = MACHINES.iter().map(|machine| machine.name).chain(["none"]).map(|name| Type {
        name: format!("{name}-machine"),
        parent: if name == "none" { "machine" } else { "generic-pc-machine" },
        properties: properties(MachineOptions::DESCRIPTION, &[], |prop| prop.kind.object_name()),
    });
    let cpus = cpus.names.iter().map(|name| {
        let more = HOST_CPUS.contains(&name.as_str()).then_some(("migratable", "bool"));
        let properties = cpus.properties.iter().copied().chain(more).map(|(name, r#type)| plain(name, r#type));
        Type { name: name.clone(), parent: "x86_64-cpu", properties: properties.collect() }
    });
    let mut types: Vec<Type> = devices.chain(objects).chain(machines).chain(chips()).chain(cpus).collect();
    // A machine may be in the list by that name already.
    types.sort_by(|one, other| one.name.cmp(&other.name));
    types.dedup_by(|one, other| one.name == other.name);
    types
}

fn plain(name: &str, r#type: &str) -> ObjectPropertyInfo {
    ObjectPropertyInfo { name: name.into(), r#type: r#type.into(), description: None, default_value: None }
}

fn properties(
    description: &'static Description,
    without: &[&str],
    type_name: fn(&Prop) -> &'static str,
) -> Vec<ObjectPropertyInfo> {
    let props = description.props().into_iter().filter(|prop| !without.contains(&prop.name));
    let info = |prop: &Prop| ObjectPropertyInfo {
        name: prop.name.into(),
        r#type: type_name(prop).into(),
        description: Some(prop.help()).filter(|help| !help.is_empty()),
        default_value: description.default_of(prop),
    };
    props.map(info).collect()
}

/// `qom-list-types`.
pub(super) fn list(cpus: &CpuTypes, implements: Option<&str>, with_abstract: bool) -> Vec<ObjectTypeInfo> {
    let concrete = all(cpus);
    let concrete = concrete.iter().filter(|one| implements.is_none_or(|kind| is_a(&one.name, one.parent, kind)));
    let concrete = concrete.map(|one| ObjectTypeInfo {
        name: one.name.clone(),
        r#abstract: None,
        parent: Some(one.parent.into()),
    });
    let kinds = ABSTRACT
        .iter()
        .filter(|(name, parent)| with_abstract && implements.is_none_or(|kind| is_a(name, parent, kind)));
    let kinds = kinds.map(|(name, parent)| ObjectTypeInfo {
        name: (*name).into(),
        r#abstract: Some(true),
        parent: Some((*parent).into()),
    });
    concrete.chain(kinds).collect()
}

/// Whether the type `name`, a kind of `parent`, is a `kind`.
fn is_a(name: &str, parent: &str, kind: &str) -> bool {
    if name == kind || parent == kind || kind == "object" {
        return true;
    }
    if kind == "user-creatable" {
        return ObjectSpec::UNION.find(name).is_some();
    }
    ABSTRACT.iter().any(|(one, above)| *one == parent && *one != name && is_a(one, above, kind))
}

/// `qom-list-properties`.
pub(super) fn object_properties(cpus: &CpuTypes, name: &str) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
    let (parent, own) = match all(cpus).into_iter().find(|one| one.name == name) {
        Some(found) => (found.parent, found.properties),
        None if ABSTRACT.iter().any(|(one, _)| *one == name) => (name, Vec::new()),
        None => {
            let desc = format!("Class '{name}' not found");
            return Err(QmpError { class: ErrorClass::DeviceNotFound, desc });
        }
    };
    // Defaults are those of devices only.
    let own = own.into_iter().map(|property| ObjectPropertyInfo { default_value: None, ..property });
    let states = ["realized", "hotplugged", "hotpluggable"].map(|name| plain(name, "bool"));
    let states = states.into_iter().filter(|_| is_a(name, parent, "device"));
    Ok([plain("type", "string")].into_iter().chain(states).chain(own).collect())
}

/// `device-list-properties`.
pub(super) fn device_properties(cpus: &CpuTypes, name: &str) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
    let is_kind = ABSTRACT.iter().any(|(one, _)| *one == name);
    let not_a_device = || QmpError::expects("typename", "a non-abstract device type");
    match all(cpus).into_iter().find(|one| one.name == name) {
        Some(found) if is_a(&found.name, found.parent, "device") => Ok(found.properties),
        Some(_) => Err(not_a_device()),
        None if is_kind => Err(not_a_device()),
        None => Err(QmpError::device_not_found(name)),
    }
}

/// The options that have parameters, under the names that QEMU's tables have.
fn options() -> Vec<(&'static str, Vec<&'static Prop>)> {
    let chardev: Vec<&Prop> = ChardevSpec::UNION.variants.iter().flat_map(|one| one.description.props()).collect();
    let of = |description: &'static Description| description.props();
    vec![
        ("accel", of(AccelOptions::DESCRIPTION)),
        ("add-fd", of(AddFdSpec::DESCRIPTION)),
        ("boot-opts", of(BootOptions::DESCRIPTION)),
        ("chardev", chardev),
        ("device", Vec::new()),
        ("drive", of(DriveOptions::DESCRIPTION)),
        ("machine", of(MachineOptions::DESCRIPTION)),
        ("memory", of(MemoryOptions::DESCRIPTION)),
        ("mon", of(MonitorSpec::DESCRIPTION)),
        ("msg", of(MsgSpec::DESCRIPTION)),
        ("name", of(NameSpec::DESCRIPTION)),
        ("object", Vec::new()),
        ("overcommit", of(OvercommitSpec::DESCRIPTION)),
        ("rtc", of(RtcOptions::DESCRIPTION)),
        ("sandbox", of(SandboxSpec::DESCRIPTION)),
        ("smp-opts", of(SmpOptions::DESCRIPTION)),
    ]
}

/// `query-command-line-options`.
pub(super) fn command_line_options(wanted: Option<&str>) -> Result<Vec<CommandLineOptionInfo>, QmpError> {
    let chosen = options().into_iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
    let infos: Vec<_> = chosen.map(|(name, props)| option_info(name, &props)).collect();
    match wanted {
        Some(name) if infos.is_empty() => Err(QmpError::generic(format!("invalid option name: {name}"))),
        _ => Ok(infos),
    }
}

fn option_info(name: &str, props: &[&'static Prop]) -> CommandLineOptionInfo {
    let mut parameters: Vec<CommandLineParameterInfo> = Vec::new();
    for prop in props {
        if parameters.iter().any(|known| known.name == prop.name) {
            continue;
        }
        let r#type = match prop.kind {
            Kind::Bool => CommandLineParameterType::Boolean,
            Kind::Int { .. } => CommandLineParameterType::Number,
            Kind::Size => CommandLineParameterType::Size,
            _ => CommandLineParameterType::String,
        };
        let help = Some(prop.help()).filter(|help| !help.is_empty());
        parameters.push(CommandLineParameterInfo { name: prop.name.into(), r#type, help, default: None });
    }
    CommandLineOptionInfo { option: name.into(), parameters }
}

#[cfg(test)]
mod tests;
