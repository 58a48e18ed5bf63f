//! The properties of objects: those that `-device TYPE,help` and `-object TYPE,help` list, with what they are now, and those
//! that every device has.

use serde_json::{Map, Value, json};

use super::objects::Object;
use crate::board::plan::{IdeDevice, IsaDevice, PciDevice, Taken};
use crate::machine::{Machine, throttle};
use crate::spec::describe::{Describe, Kind, Prop};
use crate::spec::object::ThrottleLimits;
use crate::spec::pci::{PciSpec, VirtioSpec};
use crate::spec::{DeviceSpec, ObjectSpec, human_size};

/// The name of a property, QOM's name of its type, and what it is now.
pub(super) type Property = (&'static str, &'static str, Value);

/// Of the virtio properties those of the device behind the transport.
const BEHIND_TRANSPORT: [&str; 5] = ["indirect_desc", "event_idx", "queue_reset", "packed", "iommu_platform"];

/// A virtio device has its properties on two sides; that of the whole has all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Whole,
    Transport,
    Backend,
}

impl Side {
    pub(super) fn has(self, prop: &str) -> bool {
        let is_of_transport = PciSpec::DESCRIPTION.find(prop).is_some()
            || VirtioSpec::DESCRIPTION.find(prop).is_some() && !BEHIND_TRANSPORT.contains(&prop)
            || prop == "vectors";
        match self {
            Self::Whole => true,
            Self::Transport => is_of_transport,
            Self::Backend => !is_of_transport,
        }
    }
}

impl Machine {
    pub(super) fn properties(&self, object: Object<'_>) -> Vec<Property> {
        match object {
            Object::Machine => self.of_machine(),
            Object::Cpu(index) => self.of_cpu(index),
            Object::Clock => every_device(false, false),
            Object::Device(name, taken, side) => self.of_device(name, taken, side),
            Object::Added(object) => of_object(&throttle::now(&self.host.graph, object)),
            _ => Vec::new(),
        }
    }

    fn of_machine(&self) -> Vec<Property> {
        let spec = self.planner.spec();
        let (boot, machine, smp) = (&spec.boot, &spec.machine, &spec.smp);
        let text = |path: &Option<std::path::PathBuf>| {
            json!(path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default())
        };
        let smp = json!({
            "cpus": smp.cpus, "maxcpus": smp.maxcpus, "sockets": smp.sockets, "dies": smp.dies, "clusters": 1,
            "cores": smp.cores, "threads": smp.threads,
        });
        vec![
            ("kernel", "string", text(&boot.kernel)),
            ("initrd", "string", text(&boot.initrd)),
            ("append", "string", json!(boot.append.as_deref().unwrap_or_default())),
            ("firmware", "string", text(&boot.firmware)),
            ("acpi", "OnOffAuto", json!(if machine.acpi { "auto" } else { "off" })),
            ("dump-guest-core", "bool", json!(machine.dump_guest_core)),
            ("mem-merge", "bool", json!(machine.mem_merge)),
            ("memory-backend", "link<memory-backend>", link(machine.memory_backend.as_deref().unwrap_or_default())),
            ("memory", "MemorySizeConfiguration", json!({"size": spec.memory.size})),
            ("smp", "SMPConfiguration", smp),
        ]
    }

    fn of_cpu(&self, index: usize) -> Vec<Property> {
        let mut properties = every_device(false, false);
        let Some(place) = self.facts.cpus.iter().filter(|place| place.present).nth(index) else { return properties };
        let number = |name, value: Option<u32>| (name, "int32", json!(value.map_or(-1, i64::from)));
        properties.extend([
            number("socket-id", Some(place.socket)),
            number("die-id", Some(place.die.unwrap_or(0))),
            number("core-id", Some(place.core)),
            number("thread-id", Some(place.thread)),
            number("node-id", place.node),
        ]);
        properties.extend(self.facts.cpu_model.iter().cloned());
        properties
    }

    fn of_device(&self, name: &str, taken: &Taken, side: Side) -> Vec<Property> {
        let device = &taken.device;
        let is_pluggable = side != Side::Backend && (device.pci().is_some() || device.scsi().is_some());
        let mut properties = every_device(taken.is_hotplugged, is_pluggable);
        for (prop, value) in self.settings(name, device).into_iter().filter(|(prop, _)| side.has(prop.name)) {
            let r#type = prop.type_name();
            let named = value.as_str().filter(|_| r#type.starts_with("link<")).map(link);
            properties.push((prop.name, r#type, named.unwrap_or(value)));
        }
        if let Some(bdf) = self.planner.places().of(name).filter(|_| side.has("addr")) {
            properties.push(("legacy-addr", "str", json!(format!("{:02x}.{:x}", bdf.device(), bdf.function()))));
        }
        properties
    }

    /// One side's properties as lines of `info qtree`.
    pub(super) fn device_lines(&self, name: &str, taken: &Taken, side: Side) -> Vec<String> {
        let settings = self.settings(name, &taken.device).into_iter().filter(|(prop, _)| side.has(prop.name));
        let line = |(prop, value): (&'static Prop, Value)| match (prop.name, self.planner.places().of(name)) {
            ("addr", Some(bdf)) => format!("addr = {:02x}.{:x}", bdf.device(), bdf.function()),
            _ => format!("{} = {}", prop.name, shown(prop.kind, &value)),
        };
        settings.map(line).collect()
    }

    /// What a device was told, with the machine's choice where that was left open; nothing for what nobody chose. Without
    /// `id` and `bus`, which are places in the tree.
    fn settings(&self, name: &str, device: &DeviceSpec) -> Vec<(&'static Prop, Value)> {
        let Ok(variant) = DeviceSpec::variant(device.driver()) else { return Vec::new() };
        let mut values = with_values(serde_json::to_value(device));
        values.extend(self.chosen(name).into_iter().map(|(name, value)| (name.to_owned(), value)));
        // A legacy interface is there unless it was refused: pci.0 is no PCI Express bus.
        values.entry("disable-legacy").and_modify(|value| {
            if value == "auto" {
                *value = json!("off");
            }
        });
        values.entry("bootindex").or_insert(json!(-1));
        let sector = values.entry("logical_block_size").or_insert(json!(512)).clone();
        values.entry("physical_block_size").or_insert(sector);
        let props = variant.description.props().into_iter().filter(|prop| !["id", "bus"].contains(&prop.name));
        props.filter_map(|prop| Some((prop, value_of(prop, &values)?))).collect()
    }

    /// What the machine's plan says of a device.
    fn chosen(&self, name: &str) -> Vec<(&'static str, Value)> {
        if let Some(function) = self.planner.function(name) {
            let (slot, number) = (function.bdf.device(), function.bdf.function());
            let mut chosen = vec![("addr", json!(slot << 3 | number))];
            // A vector for each queue and one for the configuration.
            let vectors =
                |given: Option<u16>, queues: u16| ("vectors", json!(given.unwrap_or(queues.saturating_add(1))));
            match &function.device {
                PciDevice::Blk(blk) => {
                    let queues = blk.config.queues;
                    chosen.extend([("num-queues", json!(queues)), vectors(blk.virtio.vectors, queues)]);
                }
                PciDevice::Scsi(scsi) => {
                    let queues = scsi.config.queues;
                    // Two more are for control and for events.
                    chosen.extend([
                        ("num_queues", json!(queues)),
                        vectors(scsi.virtio.vectors, queues.saturating_add(2)),
                    ]);
                }
                PciDevice::Rng(rng) => chosen.push(vectors(rng.virtio.vectors, 1)),
                PciDevice::Test { .. } => {}
            }
            return chosen;
        }
        if let Some(unit) = self.planner.unit(name) {
            let (address, config) = (unit.address, &unit.config);
            return vec![
                ("channel", json!(0)),
                ("scsi-id", json!(address.target)),
                ("lun", json!(address.lun)),
                ("vendor", json!(config.vendor)),
                ("product", json!(config.product)),
                ("ver", json!(config.version)),
            ];
        }
        if let Some(chip) = self.planner.isa().iter().find(|chip| chip.id == name) {
            return match chip.device {
                IsaDevice::Serial { index, base, irq, .. } => {
                    vec![("index", json!(index)), ("iobase", json!(base)), ("irq", json!(irq))]
                }
                _ => Vec::new(),
            };
        }
        self.chosen_for_drive(name)
    }

    fn chosen_for_drive(&self, name: &str) -> Vec<(&'static str, Value)> {
        let places = self.planner.ide().iter().flat_map(|channel| channel.iter().enumerate());
        let mut drives = places.filter_map(|(unit, drive)| Some((unit, drive.as_ref()?)));
        let Some((unit, drive)) = drives.find(|(_, drive)| drive.id == name) else { return Vec::new() };
        let (serial, version) = match &drive.device {
            IdeDevice::Disk(disk) => (&disk.serial, &disk.version),
            IdeDevice::Cd(cd) => (&cd.serial, &cd.version),
        };
        vec![("unit", json!(unit)), ("serial", json!(serial)), ("ver", json!(version))]
    }
}

fn of_object(object: &ObjectSpec) -> Vec<Property> {
    let Ok(variant) = ObjectSpec::variant(object.type_name()) else { return Vec::new() };
    let values = with_values(serde_json::to_value(object));
    let props = variant.description.props().into_iter().filter(|prop| prop.name != "id");
    let told = props.filter_map(|prop| Some((prop.name, prop.kind.object_name(), value_of(prop, &values)?)));
    told.chain(of_limits(object)).collect()
}

/// The limits of a group under the older names that they have one by one.
fn of_limits(object: &ObjectSpec) -> Vec<Property> {
    let ObjectSpec::ThrottleGroup(group) = object else { return Vec::new() };
    let values = with_values(serde_json::to_value(&group.limits));
    let old = |name: &str| ThrottleLimits::OLD_NAMES.iter().copied().find(|old| old.strip_prefix("x-") == Some(name));
    values.into_iter().filter_map(|(name, value)| Some((old(&name)?, "int", value))).collect()
}

/// The path of the object that a property names, if it names one.
fn link(id: &str) -> Value {
    if id.is_empty() { json!("") } else { json!(format!("/objects/{id}")) }
}

fn every_device(is_hotplugged: bool, is_pluggable: bool) -> Vec<Property> {
    vec![
        ("realized", "bool", json!(true)),
        ("hotplugged", "bool", json!(is_hotplugged)),
        ("hotpluggable", "bool", json!(is_pluggable)),
    ]
}

/// What has a value of a spec as JSON.
fn with_values(spec: serde_json::Result<Value>) -> Map<String, Value> {
    match spec {
        Ok(Value::Object(values)) => values.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// What a property is; a text that was not given is empty, and other things that were not given are not there.
fn value_of(prop: &Prop, values: &Map<String, Value>) -> Option<Value> {
    values.get(prop.name).cloned().or_else(|| matches!(prop.kind, Kind::Str).then(|| json!("")))
}

/// A value as `info qtree` shows it.
fn shown(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Size, Value::Number(bytes)) => {
            let bytes = bytes.as_u64().unwrap_or(0);
            format!("{bytes} ({})", human_size(bytes))
        }
        (_, Value::Number(number)) => match number.as_i64() {
            Some(number) => format!("{number} ({number:#x})"),
            None => format!("{number} ({:#x})", number.as_u64().unwrap_or(0)),
        },
        (_, Value::String(text)) => format!("\"{text}\""),
        (_, other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_in_qemu() {
        let int = Kind::Int { name: "uint32", min: 0, max: 1 << 32 };

        assert_eq!(shown(int, &json!(256)), "256 (0x100)");
        assert_eq!(shown(int, &json!(-1)), "-1 (0xffffffffffffffff)");
        assert_eq!(shown(Kind::Size, &json!(512)), "512 (512 B)");
        assert_eq!(shown(Kind::Size, &json!(4_294_967_295u64)), "4294967295 (4 GiB)");
        assert_eq!(shown(Kind::Size, &json!(1_500_000)), "1500000 (1.43 MiB)");
        assert_eq!(shown(Kind::Size, &json!(20_000_000)), "20000000 (19.1 MiB)");
        assert_eq!(shown(Kind::Bool, &json!(true)), "true");
        assert_eq!(shown(Kind::Str, &json!("n1")), "\"n1\"");
    }
}
