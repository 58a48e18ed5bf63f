//! `qom-set`: what of an object can be another while the machine lives.

use serde_json::Value;

use super::objects::Object;
use super::properties::Side;
use crate::board::plan::{Taken, is_made_up};
use crate::machine::{Machine, objects, throttle};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::spec::read::Source;
use crate::spec::{DeviceSpec, ObjectSpec};

impl Machine {
    /// Gives a property of an object another value: the limits of a group, where those that are not named stay, what an I/O
    /// thread was asked for, and a disk's place in the order of starting.
    pub(in crate::machine) fn set_object_property(&mut self, path: &str, property: &str, value: Value) -> Answer {
        let (_, object) = self.find(path).map_err(|_| QmpError::device_not_found(path))?;
        if let Object::Device(id, taken, side) = object
            && property == "bootindex"
            && side.has(property)
            && taken.device.disk().is_some()
        {
            let (id, index) = (id.to_owned(), place_in_order(&value)?);
            self.planner.set_bootindex(&id, index).map_err(|error| QmpError::from_error(&error))?;
            return done();
        }
        match self.changed(object, property, value)? {
            None => return Err(self.stays(object, property)),
            Some(ObjectSpec::ThrottleGroup(group)) => {
                throttle::change_group(&self.host.graph, &group).map_err(|error| QmpError::from_error(&error))?;
            }
            Some(changed) => {
                if let ObjectSpec::Iothread(spec) = &changed
                    && let Some(thread) = self.host.iothreads.get(&spec.id)
                {
                    thread.tune(&objects::tuning(spec));
                }
                self.planner.change_object(changed);
            }
        }
        done()
    }

    /// Why a property does not change: in QEMU's words.
    fn stays(&self, object: Object<'_>, property: &str) -> QmpError {
        let r#type = self.type_name(object);
        let properties = self.properties(object);
        let is_here = properties.iter().any(|(name, ..)| *name == property) || property == "type";
        if !is_here && !self.children(object).iter().any(|(name, _)| name == property) {
            return QmpError::generic(format!("Property '{type}.{property}' not found"));
        }
        match object {
            Object::Device(id, taken, side) if is_setting(taken, property) => {
                let is_behind = taken.is_virtio() && side != Side::Transport && Side::Backend.has(property);
                let device = match (is_behind, is_made_up(id)) {
                    (true, _) => format!("anonymous device (type '{}')", taken.backend_type()),
                    (false, true) => format!("anonymous device (type '{type}')"),
                    (false, false) => format!("device '{id}' (type '{type}')"),
                };
                let desc = format!("Attempt to set property '{property}' on {device} after it was realized");
                QmpError::generic(desc)
            }
            Object::Added(ObjectSpec::ThrottleGroup(_)) if property.starts_with("x-") => {
                QmpError::generic("Property cannot be set after initialization")
            }
            _ => QmpError::generic(format!("Property '{type}.{property}' is not writable")),
        }
    }

    /// The object with this value; nothing if it stays as it is.
    fn changed(&self, object: Object<'_>, property: &str, value: Value) -> Result<Option<ObjectSpec>, QmpError> {
        let Object::Added(spec) = object else { return Ok(None) };
        let can_change = match spec {
            ObjectSpec::ThrottleGroup(_) => property == "limits",
            ObjectSpec::Iothread(_) => property != "id",
            _ => false,
        };
        let Ok(Value::Object(mut options)) = serde_json::to_value(throttle::now(&self.host.graph, spec)) else {
            return Ok(None);
        };
        let Some(now) = options.get_mut(property).filter(|_| can_change) else { return Ok(None) };
        match (now, value) {
            (Value::Object(now), Value::Object(given)) => now.extend(given),
            (now, given) => *now = given,
        }
        ObjectSpec::read(options, Source::Json).map(Some).map_err(|error| QmpError::from_error(&error))
    }
}

/// A `bootindex`.
fn place_in_order(value: &Value) -> Result<i32, QmpError> {
    let number = value.as_i64().ok_or_else(|| QmpError::wrong_type("bootindex", "integer"))?;
    i32::try_from(number).map_err(|_| QmpError::expects("bootindex", "int32_t"))
}

/// A device was told this when it was made.
fn is_setting(taken: &Taken, property: &str) -> bool {
    DeviceSpec::variant(taken.device.driver()).is_ok_and(|variant| variant.description.find(property).is_some())
}
