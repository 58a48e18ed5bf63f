//! The processor models that can be named, as data.
//!
//! A model is a set of features and a name for them, so that a guest finds the same processor on every host of a cluster.
//! The names, and what each contains, are those that management layers already know. A model has versions, `-v1` and
//! so on, each a change to the one before; the plain name stands for version 1, as on QEMU's versioned machines, and some
//! versions have names of their own (`Haswell-noTSX`).

mod amd;
mod generic;
mod intel;

use super::features::{self, FeatureSet};

/// Who makes a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`.
    Intel,
    /// `AuthenticAMD`.
    Amd,
    /// `HygonGenuine`: AMD's designs.
    Hygon,
}

impl Vendor {
    /// The twelve letters of CPUID leaf 0.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Intel => "GenuineIntel",
            Self::Amd => "AuthenticAMD",
            Self::Hygon => "HygonGenuine",
        }
    }
}

/// Family, model and stepping, as people count them (the extended fields added in).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

/// What all versions of a model share.
struct Model {
    name: &'static str,
    vendor: Vendor,
    signature: Signature,
    /// Highest basic leaf.
    level: u32,
    /// Highest extended leaf; 0 for none.
    xlevel: u32,
    /// The model whose first version this one builds on.
    like: Option<&'static str>,
    /// Features of version 1: names to add to `like`, or with a dash in front to take away.
    features: &'static str,
    versions: &'static [Version],
}

/// What a version changes.
struct Version {
    model_id: &'static str,
    /// For people, in lists.
    note: &'static str,
    aliases: &'static [&'static str],
    /// Features to add to the version before, or with a dash in front to take away.
    changes: &'static str,
    /// Instead of the model's.
    model: Option<u32>,
    stepping: Option<u32>,
}

const VERSION: Version = Version { model_id: "", note: "", aliases: &[], changes: "", model: None, stepping: None };

/// One version of a model, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// With the version: `Haswell-v2`.
    pub name: String,
    /// For lists, as QEMU prints it.
    pub description: String,
    /// What else it is called: `Haswell-noTSX`.
    pub aliases: &'static [&'static str],
    /// Its maker.
    pub vendor: Vendor,
    /// Family, model, stepping.
    pub signature: Signature,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf; 0 for none.
    pub xlevel: u32,
    /// The brand string.
    pub model_id: &'static str,
    /// What it has.
    pub features: FeatureSet,
}

fn models() -> impl Iterator<Item = &'static Model> {
    generic::GENERIC.iter().chain(intel::INTEL).chain(amd::AMD)
}

/// Every version of every model.
pub fn definitions() -> impl Iterator<Item = Definition> {
    models().flat_map(|m| (0..m.versions.len()).filter_map(|n| definition(m, n)))
}

/// The definition that a name stands for: with a version, without, or an alias.
#[must_use]
pub fn find(name: &str) -> Option<Definition> {
    if let Some(model) = models().find(|m| m.name == name) {
        return definition(model, 0);
    }
    models().find_map(|m| {
        let number = |n: usize| format!("{}-v{}", m.name, n + 1);
        let position = m.versions.iter().enumerate().position(|(n, v)| v.aliases.contains(&name) || number(n) == name);
        definition(m, position?)
    })
}

/// Every name that [`find`] takes, with what to say about it: for lists.
#[must_use]
pub fn names() -> Vec<(String, String)> {
    let mut names: Vec<_> =
        models().map(|m| (m.name.to_owned(), "(alias configured by machine type)".to_owned())).collect();
    for definition in definitions() {
        names.extend(definition.aliases.iter().map(|a| ((*a).to_owned(), format!("(alias of {})", definition.name))));
        names.push((definition.name, definition.description));
    }
    names.sort();
    names
}

fn definition(model: &Model, number: usize) -> Option<Definition> {
    let version = model.versions.get(number)?;
    let versions = model.versions.iter().take(number + 1);
    let features = versions.fold(first_features(model), |set, v| apply(set, v.changes));
    let note = if version.note.is_empty() { String::new() } else { format!(" [{}]", version.note) };
    Some(Definition {
        name: format!("{}-v{}", model.name, number + 1),
        description: format!("{}{note}", version.model_id),
        aliases: version.aliases,
        vendor: model.vendor,
        signature: Signature {
            family: model.signature.family,
            model: version.model.unwrap_or(model.signature.model),
            stepping: version.stepping.unwrap_or(model.signature.stepping),
        },
        level: model.level,
        xlevel: model.xlevel,
        model_id: version.model_id,
        features,
    })
}

/// The table has no rings, see the tests.
fn first_features(model: &Model) -> FeatureSet {
    let base = model.like.and_then(|like| models().find(|m| m.name == like));
    apply(base.map_or_else(FeatureSet::new, first_features), model.features)
}

fn apply(mut set: FeatureSet, changes: &str) -> FeatureSet {
    for change in changes.split_ascii_whitespace() {
        match change.strip_prefix('-') {
            Some(name) => features::named(name).for_each(|f| set.remove(f)),
            None => features::named(change).for_each(|f| set.insert(f)),
        }
    }
    set
}

#[cfg(test)]
mod tests;
