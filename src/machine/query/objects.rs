//! The tree of objects, as far as clients ask for it: the machine, the vCPUs, and the objects and devices that were added.
//!
//! ```text
//!  / ─┬─ machine ─┬─ peripheral ─────── devices by the name that the user gave ── virtio-backend
//!     │           ├─ peripheral-anon ── those without a name ─────────────────── virtio-backend
//!     │           └─ unattached ─────── vCPUs, the clock
//!     └─ objects ── what -object and object-add made
//! ```

use std::fmt::Write as _;

use super::properties::Side;
use crate::board::plan::{Taken, is_made_up, object_path};
use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, answer};
use crate::qmp::reply::device::ObjectPropertyInfo;
use crate::spec::ObjectSpec;

/// What a path leads to.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    Root,
    Objects,
    Machine,
    Peripheral,
    PeripheralAnon,
    Unattached,
    /// The vCPU with this number.
    Cpu(usize),
    /// The real-time clock.
    Clock,
    /// A device, or one side of it.
    Device(&'a str, &'a Taken, Side),
    /// What `-object` or `object-add` made.
    Added(&'a ObjectSpec),
}

/// Why a path leads nowhere.
pub(super) enum Lost {
    NotFound,
    /// It leads to several places.
    Ambiguous,
}

impl Machine {
    /// `qom-list`.
    pub(in crate::machine) fn list_objects(&self, path: &str) -> Answer {
        let (_, object) = self.find(path).map_err(|lost| match lost {
            Lost::NotFound => QmpError::device_not_found(path),
            Lost::Ambiguous => QmpError::generic(format!("Path '{path}' is ambiguous")),
        })?;
        let entry =
            |name: String, r#type: String| ObjectPropertyInfo { name, r#type, description: None, default_value: None };
        let properties = self.properties(object).into_iter().map(|(name, r#type, _)| entry(name.into(), r#type.into()));
        let children = self.children(object).into_iter();
        let children = children.map(|(name, child)| entry(name, format!("child<{}>", self.type_name(child))));
        let entries: Vec<_> =
            [entry("type".into(), "string".into())].into_iter().chain(properties).chain(children).collect();
        answer(&entries)
    }

    /// `qom-get`.
    pub(in crate::machine) fn object_property(&self, path: &str, property: &str) -> Answer {
        let (path, object) = self.find(path).map_err(|_| QmpError::device_not_found(path))?;
        let r#type = self.type_name(object);
        if property == "type" {
            return Ok(r#type.into());
        }
        if let Some((.., value)) = self.properties(object).into_iter().find(|(name, ..)| *name == property) {
            return Ok(value);
        }
        // A child is a property, too: its value is where it is.
        if self.children(object).iter().any(|(name, _)| name == property) {
            return Ok(format!("{path}/{property}").into());
        }
        Err(QmpError::generic(format!("Property '{type}.{property}' not found")))
    }

    /// `info qom-tree`.
    pub(super) fn object_tree(&self, path: &str) -> String {
        let mut text = String::new();
        match self.find(path) {
            Ok((place, object)) => {
                self.write_tree(&mut text, 0, place.rsplit('/').next().unwrap_or_default(), object);
            }
            Err(_) => text = format!("Path '{path}' could not be resolved.\n"),
        }
        text
    }

    fn write_tree(&self, text: &mut String, depth: usize, name: &str, object: Object<'_>) {
        let _ = writeln!(text, "{:1$}/{name} ({2})", "", 2 * depth, self.type_name(object));
        let mut children = self.children(object);
        children.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        children.iter().for_each(|(name, child)| self.write_tree(text, depth + 1, name, *child));
    }

    /// What is at `path`, and where that is from the root on. One that does not begin with a `/` may begin anywhere.
    pub(super) fn find(&self, path: &str) -> Result<(String, Object<'_>), Lost> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut found = Vec::new();
        if path.starts_with('/') {
            found.extend(self.descend(String::new(), Object::Root, &parts));
        } else {
            self.search(String::new(), Object::Root, &parts, &mut found);
        }
        match (found.pop(), found.is_empty()) {
            (Some(place), true) => Ok(place),
            (Some(_), false) => Err(Lost::Ambiguous),
            (None, _) => Err(Lost::NotFound),
        }
    }

    /// Goes down from `start`, which is at `place`.
    fn descend<'a>(&'a self, place: String, start: Object<'a>, parts: &[&str]) -> Option<(String, Object<'a>)> {
        parts.iter().try_fold((place, start), |(place, object), part| {
            let (name, child) = self.children(object).into_iter().find(|(name, _)| name == part)?;
            Some((format!("{place}/{name}"), child))
        })
    }

    /// Goes down from `start` and everything below.
    fn search<'a>(&'a self, place: String, start: Object<'a>, parts: &[&str], found: &mut Vec<(String, Object<'a>)>) {
        for (name, child) in self.children(start) {
            self.search(format!("{place}/{name}"), child, parts, found);
        }
        found.extend(self.descend(place, start, parts));
    }

    pub(super) fn type_name(&self, object: Object<'_>) -> String {
        match object {
            Object::Machine => format!("{}-machine", self.facts.machine),
            Object::Cpu(_) => self.facts.cpu_type.clone(),
            Object::Clock => "mc146818rtc".into(),
            Object::Device(_, taken, Side::Backend) => taken.backend_type(),
            Object::Device(_, taken, _) => taken.device.driver().into(),
            Object::Added(object) => object.type_name().into(),
            _ => "container".into(),
        }
    }

    /// Name of what is right below, and what it is, in the order in which it came.
    pub(super) fn children<'a>(&'a self, object: Object<'a>) -> Vec<(String, Object<'a>)> {
        match object {
            Object::Root => vec![("machine".into(), Object::Machine), ("objects".into(), Object::Objects)],
            Object::Objects => {
                self.planner.objects().map(|object| (object.id().to_owned(), Object::Added(object))).collect()
            }
            Object::Machine => vec![
                ("peripheral".into(), Object::Peripheral),
                ("peripheral-anon".into(), Object::PeripheralAnon),
                ("unattached".into(), Object::Unattached),
            ],
            Object::Peripheral => self.placed(|name| !is_made_up(name)),
            Object::PeripheralAnon => self.placed(is_made_up),
            Object::Unattached => {
                let cpus = self.facts.cpus.iter().filter(|place| place.present).count();
                let all = (0..cpus).map(Object::Cpu).chain(self.guest.is_some().then_some(Object::Clock));
                all.enumerate().map(|(index, object)| (format!("device[{index}]"), object)).collect()
            }
            Object::Device(name, taken, Side::Whole) if taken.is_virtio() => {
                vec![("virtio-backend".into(), Object::Device(name, taken, Side::Backend))]
            }
            Object::Device(..) | Object::Cpu(_) | Object::Clock | Object::Added(_) => Vec::new(),
        }
    }

    fn placed(&self, is_here: impl Fn(&str) -> bool) -> Vec<(String, Object<'_>)> {
        let mut devices: Vec<_> = self.planner.places().devices().filter(|(name, _)| is_here(name)).collect();
        devices.sort_unstable_by_key(|(_, taken)| taken.order);
        let named = |(name, taken)| {
            let path = object_path(name);
            (path.rsplit('/').next().unwrap_or_default().to_owned(), Object::Device(name, taken, Side::Whole))
        };
        devices.into_iter().map(named).collect()
    }
}
