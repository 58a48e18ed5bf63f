//! One description for each type on the wire, from which everything else follows: how it is read and written (serde),
//! how its mistakes are worded ([`Qapi::check`]) and how `query-qmp-schema` shows it ([`Qapi::describe`]).
//!
//! Types are written with the macros `qapi_struct!` and `qapi_enum!`; a member's name on the wire is its Rust name with
//! `-` for `_`, unless another is given after `=`.

use serde_json::{Map, Value};

use super::error::QmpError;

mod builtin;
mod schema;
pub mod spec;
pub use schema::{Case, Member, Schema, TypeRef};

/// A type that can be in a QMP message.
pub trait Qapi {
    /// The member may be left out.
    const OPTIONAL: bool = false;

    /// This value is not written at all (an optional member that is not there).
    fn absent(&self) -> bool {
        false
    }

    /// Adds the type and all that it mentions to the schema.
    fn describe(schema: &mut Schema) -> TypeRef;

    /// Says what is wrong with `value`, in QEMU's words; what passes can be read by serde.
    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError>;
}

/// What an object type consists of: so types that share members are put together.
pub trait Members {
    /// Each member, those that it shares with others first.
    fn members(schema: &mut Schema) -> Vec<Member>;

    /// Says what is wrong with the members that are there, or which one is not.
    fn check_members(object: &Map<String, Value>, at: &At<'_>) -> Result<(), QmpError>;

    /// Whether a member is called so.
    fn has_member(name: &str) -> bool;
}

/// Where in the arguments a value is, for the message: `file.driver`, `capabilities[0].state`.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Top,
    Member(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The arguments themselves.
    pub const TOP: At<'static> = At { parent: None, step: Step::Top };

    /// The last step alone, or `null` for an element of an array: so QEMU names a member in some messages.
    pub fn name(&self) -> &'a str {
        match self.step {
            Step::Member(name) => name,
            Step::Top | Step::Index(_) => "null",
        }
    }

    /// A member of this object.
    pub fn member(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Member(name) }
    }

    /// An element of this array.
    pub fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Index(index) }
    }

    /// The members of an object, or what is wrong.
    pub fn object<'v>(&self, value: &'v Value) -> Result<&'v Map<String, Value>, QmpError> {
        value.as_object().ok_or_else(|| QmpError::wrong_type(self, "object"))
    }

    /// Checks one member of an object.
    pub fn check_member<T: Qapi>(&self, object: &Map<String, Value>, name: &str) -> Result<(), QmpError> {
        let at = self.member(name);
        match object.get(name) {
            Some(value) => T::check(value, &at),
            None if T::OPTIONAL => Ok(()),
            None => Err(QmpError::missing(at)),
        }
    }

    /// Refuses members that are not `known`.
    pub fn no_others(&self, object: &Map<String, Value>, known: impl Fn(&str) -> bool) -> Result<(), QmpError> {
        match object.keys().find(|key| !known(key)) {
            Some(key) => Err(QmpError::unexpected(self.member(key))),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if matches!(self.step, Step::Member(_)) && !matches!(parent.step, Step::Top) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Top => Ok(()),
            Step::Member(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// The name on the wire of a Rust member: `-` for `_`, without `r#`.
pub fn wire_name(rust: &str) -> String {
    rust.strip_prefix("r#").unwrap_or(rust).replace('_', "-")
}

/// Declares an object type; see the module. Members that several types share are a type of their own, which each of
/// them takes in with `..name: Type` before its others: on the wire they stand among these.
macro_rules! qapi_struct {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $(#[$base_meta:meta])* .. $base:ident : $base_type:ty,
            $($members:tt)*
        }
    ) => {
        qapi_struct! {
            @declare [ $(#[$meta])* ] [ $vis $name ]
            [ $(#[$base_meta])* #[serde(flatten)] $vis $base: $base_type, ] [ $base_type ] $($members)*
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident { $($members:tt)* }
    ) => {
        qapi_struct! {
            @declare [ $(#[$meta])* #[serde(deny_unknown_fields)] ] [ $vis $name ] [] [] $($members)*
        }
    };
    (
        @declare [ $(#[$meta:meta])* ] [ $vis:vis $name:ident ] [ $($base_member:tt)* ] [ $($base_type:ty)? ]
        $( $(#[$member_meta:meta])* $member_vis:vis $member:ident : $type:ty $(= $wire:literal)? ),* $(,)?
    ) => {
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        $(#[$meta])*
        $vis struct $name {
            $($base_member)*
            $(
                $(#[$member_meta])*
                $(#[serde(rename = $wire)])?
                #[serde(skip_serializing_if = "crate::qmp::Qapi::absent")]
                $member_vis $member: $type
            ),*
        }

        impl $crate::qmp::qapi::Members for $name {
            fn members(_schema: &mut $crate::qmp::Schema) -> Vec<$crate::qmp::qapi::Member> {
                let own = [ $( $crate::qmp::qapi::Member::of::<$type>(_schema, qapi_name!($member $($wire)?)) ),* ];
                let shared: [Vec<$crate::qmp::qapi::Member>; _] =
                    [ $( <$base_type as $crate::qmp::qapi::Members>::members(_schema) )? ];
                shared.into_iter().flatten().chain(own).collect()
            }

            fn check_members(
                _object: &serde_json::Map<String, serde_json::Value>,
                _at: &$crate::qmp::At<'_>,
            ) -> Result<(), $crate::qmp::QmpError> {
                $( <$base_type as $crate::qmp::qapi::Members>::check_members(_object, _at)?; )?
                $( _at.check_member::<$type>(_object, &qapi_name!($member $($wire)?))?; )*
                Ok(())
            }

            fn has_member(_name: &str) -> bool {
                $( if <$base_type as $crate::qmp::qapi::Members>::has_member(_name) { return true; } )?
                $( if _name == qapi_name!($member $($wire)?) { return true; } )*
                false
            }
        }

        impl $crate::qmp::Qapi for $name {
            fn describe(schema: &mut $crate::qmp::Schema) -> $crate::qmp::qapi::TypeRef {
                schema.object(std::any::type_name::<Self>(), <Self as $crate::qmp::qapi::Members>::members)
            }

            fn check(value: &serde_json::Value, at: &$crate::qmp::At<'_>) -> Result<(), $crate::qmp::QmpError> {
                let object = at.object(value)?;
                <Self as $crate::qmp::qapi::Members>::check_members(object, at)?;
                at.no_others(object, <Self as $crate::qmp::qapi::Members>::has_member)
            }
        }
    };
}

/// Declares a choice of structs on the wire as `{"type": …, "data": {…}}`, and the enumeration of what `type` may be.
macro_rules! qapi_wrapped {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident of $kind:ident {
            $( $(#[$value_meta:meta])* $value:ident($data:ty) = $wire:literal ),* $(,)?
        }
    ) => {
        qapi_enum! {
            /// The `type` that says what the data are.
            $vis enum $kind {
                $( $(#[$value_meta])* $value = $wire ),*
            }
        }

        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "type", content = "data")]
        $vis enum $name {
            $( $(#[$value_meta])* #[serde(rename = $wire)] $value($data) ),*
        }

        impl $name {
            /// Which of them it is.
            $vis fn kind(&self) -> $kind {
                match self {
                    $( Self::$value(_) => $kind::$value ),*
                }
            }
        }

        impl $crate::qmp::Qapi for $name {
            fn describe(schema: &mut $crate::qmp::qapi::Schema) -> $crate::qmp::qapi::TypeRef {
                use $crate::qmp::qapi::{Case, Member};
                schema.union(std::any::type_name::<Self>(), "type", |schema| {
                    let tag = <$kind as $crate::qmp::Qapi>::describe(schema);
                    let cases = vec![ $( {
                        let data = <$data as $crate::qmp::Qapi>::describe(schema);
                        let wrapped = format!("{}::{}", stringify!($name), $wire);
                        let kind = schema.object(&wrapped, |_| vec![Member::new("data", data, false)]);
                        Case { case: $wire.to_owned(), kind }
                    } ),* ];
                    (vec![Member::new("type", tag, false)], cases)
                })
            }

            fn check(value: &serde_json::Value, at: &$crate::qmp::At<'_>) -> Result<(), $crate::qmp::QmpError> {
                let object = at.object(value)?;
                at.check_member::<$kind>(object, "type")?;
                match object.get("type").and_then(serde_json::Value::as_str) {
                    $( Some($wire) => at.check_member::<$data>(object, "data")?, )*
                    _ => {}
                }
                at.no_others(object, |name| ["type", "data"].contains(&name))
            }
        }
    };
}

/// Declares a choice of structs whose members stand beside the tag that says which it is, and the enumeration of what the
/// tag may be.
macro_rules! qapi_union {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident of $kind:ident by $tag:literal {
            $( $(#[$value_meta:meta])* $value:ident($data:ty) = $wire:literal ),* $(,)?
        }
    ) => {
        qapi_enum! {
            /// What the tag may be.
            $vis enum $kind {
                $( $(#[$value_meta])* $value = $wire ),*
            }
        }

        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = $tag)]
        $vis enum $name {
            $( $(#[$value_meta])* #[serde(rename = $wire)] $value($data) ),*
        }

        impl $crate::qmp::Qapi for $name {
            fn describe(schema: &mut $crate::qmp::qapi::Schema) -> $crate::qmp::qapi::TypeRef {
                use $crate::qmp::qapi::{Case, Member};
                schema.union(std::any::type_name::<Self>(), $tag, |schema| {
                    let tag = <$kind as $crate::qmp::Qapi>::describe(schema);
                    let cases = vec![ $( {
                        let kind = <$data as $crate::qmp::Qapi>::describe(schema);
                        Case { case: $wire.to_owned(), kind }
                    } ),* ];
                    (vec![Member::new($tag, tag, false)], cases)
                })
            }

            fn check(value: &serde_json::Value, at: &$crate::qmp::At<'_>) -> Result<(), $crate::qmp::QmpError> {
                let mut rest = at.object(value)?.clone();
                at.check_member::<$kind>(&rest, $tag)?;
                let tag = rest.remove($tag);
                let rest = serde_json::Value::Object(rest);
                match tag.as_ref().and_then(serde_json::Value::as_str) {
                    $( Some($wire) => <$data as $crate::qmp::Qapi>::check(&rest, at), )*
                    _ => Ok(()),
                }
            }
        }
    };
}

/// The name of a member on the wire.
macro_rules! qapi_name {
    ($member:ident) => {
        $crate::qmp::qapi::wire_name(stringify!($member))
    };
    ($member:ident $wire:literal) => {
        String::from($wire)
    };
}

/// Declares an enumeration of strings; see the module.
macro_rules! qapi_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$value_meta:meta])* $value:ident = $wire:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $( $(#[$value_meta])* #[serde(rename = $wire)] $value ),*
        }

        impl $name {
            /// Every value, in order.
            $vis const ALL: &'static [Self] = &[ $( Self::$value ),* ];

            /// The name on the wire.
            $vis fn as_str(self) -> &'static str {
                match self { $( Self::$value => $wire ),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::qmp::Qapi for $name {
            fn describe(schema: &mut $crate::qmp::Schema) -> $crate::qmp::qapi::TypeRef {
                schema.enumeration(std::any::type_name::<Self>(), &[ $( $wire ),* ])
            }

            fn check(value: &serde_json::Value, at: &$crate::qmp::At<'_>) -> Result<(), $crate::qmp::QmpError> {
                match value.as_str() {
                    None => Err($crate::qmp::QmpError::wrong_type(at, "string")),
                    Some(text) if [ $( $wire ),* ].contains(&text) => Ok(()),
                    Some(text) => Err($crate::qmp::QmpError::bad_value(at.name(), text)),
                }
            }
        }
    };
}

// Last, after the macros it uses.
#[cfg(test)]
mod tests;
