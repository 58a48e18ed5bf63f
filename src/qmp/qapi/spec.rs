//! The types of [`crate::spec`] as they stand in the schema: described there once, shown here.

use super::{At, Case, Member, Qapi, Schema, TypeRef};
use crate::spec::describe::{Description, Kind, Prop, Union};

/// An object type for the properties of a description.
pub fn object(schema: &mut Schema, description: &'static Description) -> TypeRef {
    schema.object(&key(description), |schema| members(schema, description, &[]))
}

/// The members for a description's properties, less those named.
pub fn members(schema: &mut Schema, description: &'static Description, without: &[&str]) -> Vec<Member> {
    let props = description.props().into_iter().filter(|prop| !without.contains(&prop.name));
    props.map(|prop| member(schema, prop)).collect()
}

fn member(schema: &mut Schema, prop: &Prop) -> Member {
    let kind = kind(schema, &prop.kind);
    Member::new(prop.name, kind, !prop.required)
}

/// A flat union: the tag and the properties of the type it names, side by side. `common` are in every type and stand
/// beside the tag.
pub fn union(schema: &mut Schema, key: &str, union: &'static Union, common: &[&str]) -> TypeRef {
    schema.union(key, union.tag, |schema| {
        let names: Vec<&str> =
            union.variants.iter().flat_map(|one| [one.name].into_iter().chain(one.aliases.to_vec())).collect();
        let tag = schema.enumeration(&format!("{key}::{}", union.tag), &names);
        let mut shared = vec![Member::new(union.tag, tag, false)];
        let first = union.variants.first().map(|one| one.description);
        for name in common {
            shared.extend(first.and_then(|one| one.find(name)).map(|prop| member(schema, prop)));
        }
        let cases = union.variants.iter().flat_map(|one| {
            let own = format!("{key}::{}", one.name);
            let kind = schema.object(&own, |schema| members(schema, one.description, common));
            let names = [one.name].into_iter().chain(one.aliases.to_vec());
            names.map(|name| Case { case: name.to_owned(), kind: kind.clone() }).collect::<Vec<_>>()
        });
        let cases = cases.collect();
        (shared, cases)
    })
}

fn key(description: &'static Description) -> String {
    format!("spec::{}", description.name)
}

fn kind(schema: &mut Schema, kind: &Kind) -> TypeRef {
    match kind {
        Kind::Bool => bool::describe(schema),
        Kind::Int { .. } | Kind::Size => u64::describe(schema),
        Kind::Str | Kind::Parsed(_) => String::describe(schema),
        Kind::Enum(words) => schema.enumeration(&format!("spec::{}", words.name), words.words),
        Kind::Struct(description) => object(schema, description),
        Kind::List(element) => {
            let element = self::kind(schema, element);
            schema.array(&element)
        }
        Kind::Any => serde_json::Value::describe(schema),
    }
}

/// Checks that are a spec's own: its sentence becomes the error.
pub fn checked<T>(
    value: &serde_json::Value,
    at: &At<'_>,
    read: impl FnOnce(serde_json::Map<String, serde_json::Value>) -> Result<T, crate::spec::SpecError>,
) -> Result<(), crate::qmp::QmpError> {
    read(at.object(value)?.clone()).map(drop).map_err(|error| crate::qmp::QmpError::generic(error.to_string()))
}
