//! What `query-qmp-schema` answers: commands and events first, then the types they use under meaningless numbers, so
//! that no client relies on our names for types.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Qapi;

/// The name under which the schema knows a type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypeRef(String);

/// A member of an object.
#[derive(Debug, Clone)]
pub struct Member {
    name: String,
    kind: TypeRef,
    optional: bool,
    features: Vec<&'static str>,
}

/// A value of a tag and the further members that come with it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The value of the tag.
    pub case: String,
    /// The object whose members are added.
    pub kind: TypeRef,
}

impl Member {
    /// A member of a type known at compile time.
    pub fn of<T: Qapi>(schema: &mut Schema, name: String) -> Self {
        Self { name, kind: T::describe(schema), optional: T::OPTIONAL, features: Vec::new() }
    }

    /// A member whose type was described before.
    pub fn new(name: impl Into<String>, kind: TypeRef, optional: bool) -> Self {
        Self { name: name.into(), kind, optional, features: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same under another name.
    pub fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    fn to_json(&self) -> Value {
        let mut entity = json!({"name": self.name, "type": self.kind.0});
        if self.optional {
            // `null` says: optional, and what happens without it is the command's affair.
            entity["default"] = Value::Null;
        }
        if !self.features.is_empty() {
            entity["features"] = json!(self.features);
        }
        entity
    }
}

/// Collects entities; each type is described once however often it is used.
#[derive(Debug, Default)]
pub struct Schema {
    entries: Vec<Value>,
    types: Vec<Value>,
    known: HashMap<String, TypeRef>,
    numbers: usize,
}

impl Schema {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a command.
    pub fn command(&mut self, name: &str, arguments: &TypeRef, result: &TypeRef, features: &[&str]) {
        let mut entity = json!({
            "name": name, "meta-type": "command", "arg-type": arguments.0, "ret-type": result.0
        });
        if !features.is_empty() {
            entity["features"] = json!(features);
        }
        self.entries.push(entity);
    }

    /// Adds an event.
    pub fn event(&mut self, name: &str, data: &TypeRef) {
        self.entries.push(json!({"name": name, "meta-type": "event", "arg-type": data.0}));
    }

    /// A type of JSON itself.
    pub fn builtin(&mut self, name: &str, json_type: &str) -> TypeRef {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let reference = TypeRef(name.to_owned());
        self.known.insert(name.to_owned(), reference.clone());
        self.types.push(json!({"name": name, "meta-type": "builtin", "json-type": json_type}));
        reference
    }

    /// A list of `element`.
    pub fn array(&mut self, element: &TypeRef) -> TypeRef {
        let name = format!("[{}]", element.0);
        if let Some(known) = self.known.get(&name) {
            return known.clone();
        }
        let reference = TypeRef(name.clone());
        self.known.insert(name.clone(), reference.clone());
        self.types.push(json!({"name": name, "meta-type": "array", "element-type": element.0}));
        reference
    }

    /// One of these strings.
    pub fn enumeration(&mut self, key: &str, values: &[&str]) -> TypeRef {
        self.define(key, |_, reference| {
            let members: Vec<Value> = values.iter().map(|value| json!({"name": value})).collect();
            json!({"name": reference.0, "meta-type": "enum", "members": members, "values": values})
        })
    }

    /// An object with these members.
    pub fn object(&mut self, key: &str, members: impl FnOnce(&mut Self) -> Vec<Member>) -> TypeRef {
        self.define(key, |schema, reference| {
            let members: Vec<Value> = members(schema).iter().map(Member::to_json).collect();
            json!({"name": reference.0, "meta-type": "object", "members": members})
        })
    }

    /// An object whose further members depend on one of them, the tag.
    pub fn union(
        &mut self,
        key: &str,
        tag: &str,
        parts: impl FnOnce(&mut Self) -> (Vec<Member>, Vec<Case>),
    ) -> TypeRef {
        self.define(key, |schema, reference| {
            let (members, cases) = parts(schema);
            let members: Vec<Value> = members.iter().map(Member::to_json).collect();
            let cases: Vec<Value> = cases.iter().map(|case| json!({"case": case.case, "type": case.kind.0})).collect();
            json!({
                "name": reference.0, "meta-type": "object", "members": members, "tag": tag, "variants": cases
            })
        })
    }

    /// One of several types, told apart by their JSON type.
    pub fn alternate(&mut self, key: &str, choices: impl FnOnce(&mut Self) -> Vec<TypeRef>) -> TypeRef {
        self.define(key, |schema, reference| {
            let members: Vec<Value> = choices(schema).iter().map(|choice| json!({"type": choice.0})).collect();
            json!({"name": reference.0, "meta-type": "alternate", "members": members})
        })
    }

    /// Numbers a type before it is described, so that a type may mention itself.
    fn define(&mut self, key: &str, describe: impl FnOnce(&mut Self, &TypeRef) -> Value) -> TypeRef {
        // Names of ours have `::` or `()`, the builtins have not: one map serves both.
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let reference = TypeRef(self.numbers.to_string());
        self.numbers += 1;
        self.known.insert(key.to_owned(), reference.clone());
        let entity = describe(self, &reference);
        self.types.push(entity);
        reference
    }

    /// The whole schema.
    pub fn finish(mut self) -> Value {
        self.entries.append(&mut self.types);
        Value::Array(self.entries)
    }
}
