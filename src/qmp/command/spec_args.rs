//! Arguments that are things of [`crate::spec`]: the same type, and the same mistakes, as on the command line.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use super::{blockdev_check, blockdev_schema};
use crate::qmp::QmpError;
use crate::qmp::qapi::{At, Case, Member, Qapi, Schema, TypeRef, spec};
use crate::spec::blockdev::BlockdevArgs;
use crate::spec::describe::{DescribeUnion, Variant};
use crate::spec::read::Source;
use crate::spec::{ChardevSpec, DeviceSpec, ObjectSpec, SpecError};

/// `chardev-add`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChardevAdd(pub Box<ChardevSpec>);

/// `object-add`.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectAdd(pub Box<ObjectSpec>);

/// `blockdev-add`.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockdevAdd(pub BlockdevArgs);

/// A node by its name, or one to open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BlockdevRef {
    /// The name of a node that is there.
    Name(String),
    /// What `blockdev-add` would be told.
    Inline(Map<String, Value>),
}

impl Qapi for BlockdevRef {
    fn describe(schema: &mut Schema) -> TypeRef {
        blockdev_schema::describe_reference(schema)
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        match value {
            Value::String(_) => return Ok(()),
            Value::Object(_) => {}
            _ => return Err(QmpError::wrong_type(at.name(), "BlockdevRef")),
        }
        let checked = blockdev_check::check_reference(value, &at.to_string());
        checked.map_err(|error| QmpError::generic(error.to_string()))
    }
}

impl Serialize for BlockdevAdd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.options.serialize(serializer)
    }
}

/// `device_add`: the driver and its properties. They are read again where the defaults of `-global` are known.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceAdd(pub Map<String, Value>);

impl DeviceAdd {
    fn read(options: Map<String, Value>) -> Result<Self, SpecError> {
        DeviceSpec::read(options.clone(), Source::Either).map(|_| Self(options))
    }
}

impl ChardevAdd {
    fn read(arguments: Map<String, Value>) -> Result<Self, SpecError> {
        let mut spec = ChardevSpec::read_wire(arguments)?;
        if let ChardevSpec::Socket(socket) = &mut spec {
            if socket.wait == Some(true) {
                // It would hold up every monitor, and with them whoever could connect.
                return Err(SpecError::refused("'wait' in chardev-add", "leave it out and connect at any time"));
            }
            // The schema's default; that of -chardev is to wait.
            socket.wait = socket.server.then_some(false);
        }
        Ok(Self(Box::new(spec)))
    }
}

impl ObjectAdd {
    fn read(arguments: Map<String, Value>) -> Result<Self, SpecError> {
        ObjectSpec::read(arguments, Source::Json).map(|spec| Self(Box::new(spec)))
    }
}

impl BlockdevAdd {
    fn read(options: Map<String, Value>) -> Result<Self, SpecError> {
        blockdev_check::check_node(&options, Source::Json)?;
        if !options.contains_key("node-name") {
            return Err(SpecError::new("'node-name' must be specified for the root node"));
        }
        Ok(Self(BlockdevArgs { options }))
    }
}

/// Implements reading and checking by the type's own `read`.
macro_rules! by_read {
    ($($name:ident),*) => { $(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::read(Map::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    )* };
}

by_read!(ChardevAdd, ObjectAdd, BlockdevAdd, DeviceAdd);

impl Qapi for ObjectAdd {
    fn describe(schema: &mut Schema) -> TypeRef {
        spec::union(schema, "spec::ObjectOptions", ObjectSpec::UNION, &["id"])
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        spec::checked(value, at, Self::read)
    }
}

impl Qapi for BlockdevAdd {
    fn describe(schema: &mut Schema) -> TypeRef {
        blockdev_schema::describe(schema)
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        spec::checked(value, at, Self::read)
    }
}

impl Qapi for DeviceAdd {
    /// As QEMU has it: what a driver's properties are is for `device-list-properties`.
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.object("spec::DeviceAdd", |schema| {
            let text = String::describe(schema);
            let member = |name, optional| Member::new(name, text.clone(), optional);
            vec![member("driver", false), member("bus", true), member("id", true)]
        })
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        spec::checked(value, at, Self::read)
    }
}

impl Qapi for ChardevAdd {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.object("spec::ChardevAdd", |schema| {
            let id = String::describe(schema);
            let backend = describe_backend(schema);
            vec![Member::new("id", id, false), Member::new("backend", backend, false)]
        })
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        spec::checked(value, at, Self::read)
    }
}

/// `{"type": T, "data": {…}}`.
fn describe_backend(schema: &mut Schema) -> TypeRef {
    let variants = ChardevSpec::UNION.variants;
    schema.union("spec::ChardevBackend", "type", |schema| {
        let tag = schema.enumeration("spec::ChardevBackendKind", &ChardevSpec::names());
        let cases = variants.iter().map(|variant| {
            let data = describe_data(schema, variant);
            let wrapped = format!("spec::ChardevBackend::{}", variant.name);
            let kind = schema.object(&wrapped, |_| vec![Member::new("data", data, false)]);
            Case { case: variant.name.to_owned(), kind }
        });
        let cases = cases.collect();
        (vec![Member::new("type", tag, false)], cases)
    })
}

/// The options of `-chardev` under the names that the schema has for them.
fn describe_data(schema: &mut Schema, variant: &'static Variant) -> TypeRef {
    const ADDRESS: [&str; 8] = ["host", "port", "to", "ipv4", "ipv6", "path", "abstract", "tight"];
    schema.object(&format!("spec::ChardevData::{}", variant.name), |schema| {
        let is_socket = variant.name == "socket";
        let mut without = vec!["id", "mux"];
        if is_socket {
            without.extend(ADDRESS);
            without.push("fd");
        }
        let members = spec::members(schema, variant.description, &without);
        let mut members: Vec<Member> = members.into_iter().map(|member| renamed(member, variant.name)).collect();
        if is_socket {
            let address = describe_address(schema);
            members.insert(0, Member::new("addr", address, false));
        }
        members
    })
}

fn renamed(member: Member, kind: &str) -> Member {
    match (kind, member.name()) {
        ("file", "path") => member.called("out"),
        ("file", "input-path") => member.called("in"),
        ("pipe", "path") => member.called("device"),
        _ => member,
    }
}

/// `{"type": T, "data": {…}}` again, for where a socket is.
fn describe_address(schema: &mut Schema) -> TypeRef {
    schema.union("spec::SocketAddressLegacy", "type", |schema| {
        let tag = schema.enumeration("spec::SocketAddressType", &["inet", "unix", "fd"]);
        let text = String::describe(schema);
        let flag = bool::describe(schema);
        let number = u16::describe(schema);
        let inet = vec![
            Member::new("host", text.clone(), false),
            Member::new("port", text.clone(), false),
            Member::new("to", number, true),
            Member::new("ipv4", flag.clone(), true),
            Member::new("ipv6", flag.clone(), true),
        ];
        let unix = vec![
            Member::new("path", text.clone(), false),
            Member::new("abstract", flag.clone(), true),
            Member::new("tight", flag, true),
        ];
        let fd = vec![Member::new("str", text, false)];
        let cases = [("inet", inet), ("unix", unix), ("fd", fd)].map(|(name, members)| {
            let data = schema.object(&format!("spec::SocketAddress::{name}"), |_| members);
            let wrapped = format!("spec::SocketAddressLegacy::{name}");
            let kind = schema.object(&wrapped, |_| vec![Member::new("data", data, false)]);
            Case { case: name.to_owned(), kind }
        });
        (vec![Member::new("type", tag, false)], cases.to_vec())
    })
}
