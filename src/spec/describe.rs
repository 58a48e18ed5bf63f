//! What a described type looks like from outside: the name, type, default and help of each property.
//!
//! One description serves the check of what a user wrote ([`super::read`]), the help, and QMP's introspection. It is made by
//! the macros `spec_struct!`, `spec_enum!` and `spec_union!` from the same lines that make the serde type, and a property's
//! help is its doc comment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

/// The type of a property.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `on` or `off`.
    Bool,
    /// A whole number in this range. `name` is QEMU's name for it: `uint16`.
    Int {
        /// QEMU's name.
        name: &'static str,
        /// The least.
        min: i128,
        /// The greatest.
        max: i128,
    },
    /// A number of bytes; in option text with a suffix.
    Size,
    /// Any text.
    Str,
    /// One of some words.
    Enum(&'static Enumeration),
    /// Properties of its own (`throttling.bps-total`, or an object in JSON).
    Struct(&'static Description),
    /// Any number of these.
    List(&'static Kind),
    /// Text in a form of its own, or the number that JSON may give instead.
    Parsed(&'static Form),
    /// Whatever JSON can say; checked by whom it is for.
    Any,
}

/// A type with a fixed set of words.
#[derive(Debug)]
pub struct Enumeration {
    /// QEMU's name of the type, as `-device X,help` prints it.
    pub name: &'static str,
    /// The words.
    pub words: &'static [&'static str],
}

/// A type whose text has a form of its own.
#[derive(Debug)]
pub struct Form {
    /// QEMU's name of the type.
    pub name: &'static str,
    /// A noun phrase for "Parameter 'x' expects …".
    pub expects: &'static str,
    /// Says whether the text has the form.
    pub accepts: fn(&str) -> bool,
    /// Says whether a JSON number may stand for it, and this one does.
    pub accepts_number: fn(i64) -> bool,
}

impl Kind {
    /// The name of the type as help and `device-list-properties` print it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int { name, .. } => name,
            Self::Size => "size",
            Self::Str => "str",
            Self::Enum(words) => words.name,
            Self::Struct(description) => description.name,
            Self::List(_) => "list",
            Self::Parsed(form) => form.name,
            Self::Any => "any",
        }
    }

    /// The same for properties of what is no device: QOM has fewer names for these.
    #[must_use]
    pub fn object_name(&self) -> &'static str {
        match self {
            Self::Str => "string",
            Self::Int { .. } | Self::Size => "int",
            Self::List(kind) => kind.object_name(),
            other => other.name(),
        }
    }
}

/// A property.
#[derive(Debug, Clone, Copy)]
pub struct Prop {
    /// Its name in option text and in JSON.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// It must be given.
    pub required: bool,
    /// One sentence, from the doc comment; may hold line ends and leading spaces of that comment, see [`Prop::help`].
    doc: &'static str,
}

impl Prop {
    /// For the macros.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, required: bool, doc: &'static str) -> Self {
        Self { name, kind, required, doc }
    }

    /// The name of its type as a property of a device: some name objects.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.name {
            "iothread" => "link<iothread>",
            "rng" => "link<rng-backend>",
            _ => self.kind.name(),
        }
    }

    /// One line of help, without a full stop.
    #[must_use]
    pub fn help(&self) -> String {
        one_line(self.doc)
    }
}

/// All properties of a type.
#[derive(Debug)]
pub struct Description {
    /// QEMU's name of the type (`virtio-blk-pci`).
    pub name: &'static str,
    /// The properties of this type alone.
    pub own: &'static [Prop],
    /// Groups that it shares with other types.
    pub parts: &'static [&'static Description],
    /// Its doc comment.
    pub doc: &'static str,
    /// A value with all defaults, as JSON.
    pub defaults: fn() -> Value,
}

impl Description {
    /// Every property, in the order of the declaration, shared ones last.
    #[must_use]
    pub fn props(&self) -> Vec<&'static Prop> {
        let shared = self.parts.iter().flat_map(|part| part.own);
        self.own.iter().chain(shared).collect()
    }

    /// The property of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Prop> {
        self.props().into_iter().find(|prop| prop.name == name)
    }

    /// What a property is when it is not given; nothing for those that are then just absent, or must be given.
    #[must_use]
    pub fn default_of(&self, prop: &Prop) -> Option<Value> {
        if prop.required {
            return None;
        }
        (self.defaults)().get(prop.name).filter(|value| !value.is_null()).cloned()
    }

    /// One line of help, without a full stop.
    #[must_use]
    pub fn help(&self) -> String {
        one_line(self.doc)
    }
}

fn one_line(doc: &str) -> String {
    let first = doc.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches('.').replace('`', "")
}

/// One of the types that a tag chooses from.
#[derive(Debug)]
pub struct Variant {
    /// The tag's value.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Its properties.
    pub description: &'static Description,
}

/// Types that a tag chooses from: devices by `driver`, objects by `qom-type`.
#[derive(Debug)]
pub struct Union {
    /// The tag's name.
    pub tag: &'static str,
    /// The types.
    pub variants: &'static [Variant],
}

impl Union {
    /// The type of this name or alias.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Variant> {
        self.variants.iter().find(|variant| variant.name == name || variant.aliases.contains(&name))
    }

    /// The name of every type, aliases left out.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.variants.iter().map(|variant| variant.name).collect()
    }
}

/// A type made by `spec_struct!`.
pub trait Describe {
    /// Its properties.
    const DESCRIPTION: &'static Description;
}

/// A type made by `spec_union!`.
pub trait DescribeUnion {
    /// What there is to choose from.
    const UNION: &'static Union;
}

/// A type that a property can have.
pub trait Field {
    /// How the check treats it.
    const KIND: Kind;
    /// The property may be left out although it has no default.
    const OPTIONAL: bool = false;

    /// This value is not written at all.
    fn absent(&self) -> bool {
        false
    }
}

impl<T: Field> Field for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Field> Field for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
    const OPTIONAL: bool = true;

    fn absent(&self) -> bool {
        self.is_empty()
    }
}

impl Field for bool {
    const KIND: Kind = Kind::Bool;
}

impl Field for String {
    const KIND: Kind = Kind::Str;
}

impl Field for PathBuf {
    const KIND: Kind = Kind::Str;
}

impl Field for Value {
    const KIND: Kind = Kind::Any;
}

impl Field for Map<String, Value> {
    const KIND: Kind = Kind::Any;
    const OPTIONAL: bool = true;

    fn absent(&self) -> bool {
        self.is_empty()
    }
}

impl Field for BTreeMap<String, String> {
    const KIND: Kind = Kind::Any;
    const OPTIONAL: bool = true;
}

macro_rules! integers {
    ($($type:ty: $name:literal),*) => { $(
        impl Field for $type {
            const KIND: Kind = Kind::Int { name: $name, min: <$type>::MIN as i128, max: <$type>::MAX as i128 };
        }
    )* };
}

integers!(u8: "uint8", u16: "uint16", u32: "uint32", u64: "uint64", i32: "int32", i64: "int64");

/// `-` for each `_`: the name on the wire of a Rust field.
#[must_use]
pub const fn kebab<const N: usize>(name: &str) -> [u8; N] {
    let bytes = name.as_bytes();
    let mut out = [0; N];
    let mut index = 0;
    while index < N {
        out[index] = if bytes[index] == b'_' { b'-' } else { bytes[index] };
        index += 1;
    }
    out
}
