//! The types that every QMP schema has: strings, numbers, booleans, lists, anything.

use serde_json::Value;

use super::{At, Qapi, Schema, TypeRef};
use crate::qmp::error::QmpError;

impl<T: Qapi> Qapi for Option<T> {
    const OPTIONAL: bool = true;

    fn absent(&self) -> bool {
        self.is_none()
    }

    fn describe(schema: &mut Schema) -> TypeRef {
        T::describe(schema)
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        T::check(value, at)
    }
}

impl<T: Qapi> Qapi for Box<T> {
    fn describe(schema: &mut Schema) -> TypeRef {
        T::describe(schema)
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        T::check(value, at)
    }
}

impl<T: Qapi> Qapi for Vec<T> {
    fn describe(schema: &mut Schema) -> TypeRef {
        let element = T::describe(schema);
        schema.array(&element)
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        let elements = value.as_array().ok_or_else(|| QmpError::wrong_type(at, "array"))?;
        elements.iter().enumerate().try_for_each(|(index, element)| T::check(element, &at.index(index)))
    }
}

impl Qapi for String {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.builtin("str", "string")
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        value.as_str().map(drop).ok_or_else(|| QmpError::wrong_type(at, "string"))
    }
}

impl Qapi for bool {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.builtin("bool", "boolean")
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        value.as_bool().map(drop).ok_or_else(|| QmpError::wrong_type(at, "boolean"))
    }
}

impl Qapi for f64 {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.builtin("number", "number")
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        value.as_f64().map(drop).ok_or_else(|| QmpError::wrong_type(at, "number"))
    }
}

impl Qapi for Value {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.builtin("any", "value")
    }

    fn check(_: &Value, _: &At<'_>) -> Result<(), QmpError> {
        Ok(())
    }
}

/// A command without a result answers the empty object.
impl Qapi for () {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.object("()", |_| Vec::new())
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        at.no_others(at.object(value)?, |_| false)
    }
}

/// Whole numbers share one wire type; the widths differ only in what they accept.
macro_rules! integers {
    ($( $type:ty: $range:literal ),*) => { $(
        impl Qapi for $type {
            fn describe(schema: &mut Schema) -> TypeRef {
                schema.builtin("int", "int")
            }

            fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
                let whole = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
                match whole.map(<$type>::try_from) {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(_)) => Err(QmpError::expects(at, $range)),
                    None => Err(QmpError::wrong_type(at, "integer")),
                }
            }
        }
    )* };
}

integers!(i64: "int64", u64: "uint64", i32: "int32_t", u32: "uint32_t", u16: "uint16_t", u8: "uint8_t");
