//! `overlap-check` of qcow2: a mode by its name, or a mode with changes to it.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::text;
use crate::format::qcow2::{Kind, Kinds};

/// Which kinds of metadata are kept from being overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlapMode {
    /// None.
    None,
    /// Those in one piece: the header, the L1 table, the refcount table, the lists of snapshots and bitmaps.
    Constant,
    /// Those, L2 tables, refcount blocks and the L1 tables of snapshots.
    #[default]
    Cached,
    /// Those and the L2 tables of snapshots.
    All,
}

/// A mode with changes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names of the structures say what they are")]
pub struct OverlapFlags {
    /// The mode that is changed (`cached`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<OverlapMode>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub main_header: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub active_l1: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub active_l2: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub refcount_table: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub refcount_block: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub snapshot_table: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub inactive_l1: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub inactive_l2: Option<bool>,
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub bitmap_directory: Option<bool>,
}

/// `overlap-check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OverlapChecks {
    /// By its name.
    Mode(OverlapMode),
    /// With changes.
    Flags(OverlapFlags),
}

impl Default for OverlapChecks {
    fn default() -> Self {
        Self::Mode(OverlapMode::default())
    }
}

impl OverlapMode {
    fn kinds(self) -> Kinds {
        match self {
            Self::None => Kinds::NONE,
            Self::Constant => Kinds::CONSTANT,
            Self::Cached => Kinds::CACHED,
            Self::All => Kinds::ALL,
        }
    }

    fn named<E: Error>(name: &str) -> Result<Self, E> {
        match name {
            "none" => Ok(Self::None),
            "constant" => Ok(Self::Constant),
            "cached" => Ok(Self::Cached),
            "all" => Ok(Self::All),
            _ => Err(E::custom(format!(
                "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, \
                 constant, cached, all"
            ))),
        }
    }
}

impl OverlapChecks {
    /// The kinds of metadata.
    #[must_use]
    pub fn kinds(self) -> Kinds {
        let flags = match self {
            Self::Mode(mode) => return mode.kinds(),
            Self::Flags(flags) => flags,
        };
        let changes = [
            (Kind::Header, flags.main_header),
            (Kind::ActiveL1, flags.active_l1),
            (Kind::ActiveL2, flags.active_l2),
            (Kind::CountTable, flags.refcount_table),
            (Kind::CountBlock, flags.refcount_block),
            (Kind::SnapshotTable, flags.snapshot_table),
            (Kind::InactiveL1, flags.inactive_l1),
            (Kind::InactiveL2, flags.inactive_l2),
            (Kind::BitmapDirectory, flags.bitmap_directory),
        ];
        let template = flags.template.unwrap_or_default().kinds();
        changes.into_iter().fold(template, |kinds, (kind, on)| on.map_or(kinds, |on| kinds.with(kind, on)))
    }
}

impl<'de> Deserialize<'de> for OverlapMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::named(&String::deserialize(from)?)
    }
}

impl<'de> Deserialize<'de> for OverlapChecks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Checks;
        impl<'de> Visitor<'de> for Checks {
            type Value = OverlapChecks;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("none, constant, cached, all, or an object of flags")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<OverlapChecks, E> {
                OverlapMode::named(name).map(OverlapChecks::Mode)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OverlapChecks, A::Error> {
                OverlapFlags::deserialize(MapAccessDeserializer::new(map)).map(OverlapChecks::Flags)
            }
        }
        from.deserialize_any(Checks)
    }
}
