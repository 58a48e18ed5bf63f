//! The tree of objects, as far as clients ask for it: the vCPUs, and the objects and devices that the user added.

use serde_json::Value;

use super::cpu;
use crate::board::plan::{PERIPHERAL, PERIPHERAL_ANON, named_in};
use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, answer};
use crate::qmp::reply::device::ObjectPropertyInfo;

/// Where `-object` and `object-add` put what they make.
const OBJECTS: &str = "/objects";

fn entry(name: impl Into<String>, r#type: impl Into<String>) -> ObjectPropertyInfo {
    ObjectPropertyInfo { name: name.into(), r#type: r#type.into(), description: None, default_value: None }
}

impl Machine {
    /// `qom-list`.
    pub(in crate::machine) fn list_objects(&self, path: &str) -> Answer {
        let path = if path == "/" { path } else { path.trim_end_matches('/') };
        let mut entries = vec![entry("type", "string")];
        match path {
            "/" => {
                entries.push(entry("machine", format!("child<{}-machine>", self.facts.machine)));
                entries.push(entry("objects", "child<container>"));
            }
            OBJECTS => {
                let objects = self.planner.objects();
                entries.extend(objects.map(|(id, r#type)| entry(id, format!("child<{type}>"))));
            }
            "/machine" => {
                let containers = ["peripheral", "peripheral-anon", "unattached"];
                entries.extend(containers.map(|name| entry(name, "child<container>")));
            }
            PERIPHERAL => {
                let devices = self.facts.peripherals.iter();
                entries.extend(devices.map(|(id, driver)| entry(id, format!("child<{driver}>"))));
            }
            "/machine/unattached" => {
                let present = self.facts.cpus.iter().filter(|place| place.present).enumerate();
                let cpus =
                    present.map(|(n, _)| entry(format!("device[{n}]"), format!("child<{}>", self.facts.cpu_type)));
                entries.extend(cpus);
            }
            PERIPHERAL_ANON => {
                let devices = self.planner.places().unnamed().into_iter();
                entries.extend(devices.map(|(name, driver)| entry(name, format!("child<{driver}>"))));
            }
            _ if self.type_of(path).is_some() => {}
            _ => return Err(QmpError::device_not_found(path)),
        }
        answer(&entries)
    }

    /// `qom-get`: every object has its type; nothing else is kept as a property.
    pub(in crate::machine) fn object_property(&self, path: &str, property: &str) -> Answer {
        let r#type = match path {
            "/machine" => Some(format!("{}-machine", self.facts.machine)),
            "/" | OBJECTS | PERIPHERAL | "/machine/unattached" | PERIPHERAL_ANON => Some("container".into()),
            _ => self.type_of(path),
        };
        let r#type = r#type.ok_or_else(|| QmpError::device_not_found(path))?;
        match property {
            "type" => Ok(Value::String(r#type)),
            _ => Err(QmpError::generic(format!("Property '{type}.{property}' not found"))),
        }
    }

    /// The type of a vCPU, or of an object or a device that the user added.
    pub(super) fn type_of(&self, path: &str) -> Option<String> {
        if let Some(id) = path.strip_prefix(OBJECTS).and_then(|rest| rest.strip_prefix('/')) {
            return self.planner.objects().find(|(known, _)| *known == id).map(|(_, r#type)| r#type.to_owned());
        }
        if let Some(name) = path.strip_prefix(PERIPHERAL_ANON).and_then(|rest| rest.strip_prefix('/')) {
            let unnamed = self.planner.places().unnamed();
            return unnamed.into_iter().find(|(known, _)| known == name).map(|(_, driver)| driver.to_owned());
        }
        if let Some(id) = named_in(path) {
            return self.facts.peripherals.iter().find(|(name, _)| name == id).map(|(_, driver)| driver.clone());
        }
        let present = self.facts.cpus.iter().filter(|place| place.present).count();
        (0..present).any(|n| cpu::path(n) == path).then(|| self.facts.cpu_type.clone())
    }
}
