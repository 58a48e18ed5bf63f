//! How values are taken: numbers and flags also as text, nodes by name or inline.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::BlockdevSpec;

/// A flag: true or false, or on, off, yes, no.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("'on' or 'off'")
        }
        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            match text {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
            }
        }
    }
    from.deserialize_any(Flag).map(Some)
}

/// A number: also as text, with a suffix of powers of 1024.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a non-negative number below 2^64, with an optional suffix k, M, G, T, P or E")
        }
        fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }
        fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
            u64::try_from(value).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(value), &self))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    from.deserialize_any(Size).map(Some)
}

/// A number of bytes: digits, decimal or after `0x`, and one suffix.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let shift = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'b' => 0,
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        b'p' => 50,
        b'e' => 60,
        b'0'..=b'9' => return text.parse().ok(),
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    number.checked_mul(1 << shift)
}

/// A node by name, or defined in place.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeRef {
    /// The name of a node that is there.
    Name(String),
    /// A node to make.
    Inline(Box<BlockdevSpec>),
}

/// The node beneath a format.
pub type FileRef = NodeRef;

impl Default for NodeRef {
    fn default() -> Self {
        Self::Name(String::new())
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Option<NodeRef>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node name or a block device definition")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(NodeRef::Name(text.to_owned())))
    }
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let spec = BlockdevSpec::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Some(NodeRef::Inline(Box::new(spec))))
    }
}

impl<'de> Deserialize<'de> for NodeRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let found = from.deserialize_any(NodeVisitor)?;
        found.ok_or_else(|| D::Error::custom("null is not a node"))
    }
}

impl Serialize for NodeRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => to.serialize_str(name),
            Self::Inline(spec) => spec.serialize(to),
        }
    }
}

/// What is asked for beneath an overlay.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Backing {
    /// What the image's header names.
    #[default]
    Header,
    /// Nothing (`null`).
    None,
    /// This node.
    Node(NodeRef),
    /// What the header names, with these options put over what that means; `-drive` alone has a way to say so.
    Over(serde_json::Map<String, serde_json::Value>),
}

impl Backing {
    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Header
    }
}

impl<'de> Deserialize<'de> for Backing {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match from.deserialize_any(NodeVisitor)? {
            None => Self::None,
            Some(NodeRef::Name(name)) if name.is_empty() => Self::None,
            Some(node) => Self::Node(node),
        })
    }
}

impl Serialize for Backing {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Header | Self::None => to.serialize_unit(),
            Self::Node(node) => node.serialize(to),
            Self::Over(options) => options.serialize(to),
        }
    }
}
