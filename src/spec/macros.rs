//! The macros that make a serde type and its description of the same lines.

/// A property's name on the wire: that given, or the Rust name with `-` for `_`.
macro_rules! spec_name {
    ($field:ident) => {{
        const RUST: &str = stringify!($field);
        const WIRE: [u8; RUST.len()] = $crate::spec::describe::kebab(RUST);
        match std::str::from_utf8(&WIRE) {
            Ok(name) => name,
            Err(_) => RUST,
        }
    }};
    ($field:ident $wire:literal) => {
        $wire
    };
}

/// The value of a property that is not given.
macro_rules! spec_default {
    () => {
        Default::default()
    };
    ($default:expr) => {
        $default
    };
}

/// A property must be given: it has neither a default nor a type that can be absent.
macro_rules! spec_required {
    ($type:ty) => {
        !<$type as $crate::spec::describe::Field>::OPTIONAL
    };
    ($type:ty, $default:expr) => {
        false
    };
}

/// Declares a group of properties.
///
/// ```text
/// spec_struct! {
///     /// What it is.
///     pub struct Thing as "thing-pci" with pci: PciSpec {
///         /// Help of the property `queue-size`, which is 256 when not given.
///         pub queue_size: u16 = 256,
///         /// `min_io_size` keeps its underscores.
///         pub min_io_size: u32 as "min_io_size" = 0,
///         /// Must be given.
///         pub id: String,
///         /// May be absent.
///         pub serial: Option<String>,
///     }
/// }
/// ```
///
/// `with` includes groups declared with `pub part`: their properties stand beside the type's own.
macro_rules! spec_struct {
    ( $(#[doc = $doc:literal])* pub struct $name:ident $($rest:tt)* ) => {
        spec_struct! { @make [#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]]
            $(#[doc = $doc])* $name $($rest)* }
    };
    // serde takes the properties of a part out of those of its owner, and the owner refuses what is left.
    ( $(#[doc = $doc:literal])* pub part $name:ident $($rest:tt)* ) => {
        spec_struct! { @make [#[serde(default, rename_all = "kebab-case")]] $(#[doc = $doc])* $name $($rest)* }
    };
    (@make [#[$serde:meta]]
        $(#[doc = $doc:literal])*
        $name:ident $(as $type_name:literal)? $(with $($part:ident : $part_type:ty),+)? {
            $( $(#[doc = $field_doc:literal])* pub $field:ident : $type:ty $(as $wire:literal)? $(= $default:expr)? ),*
            $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[$serde]
        pub struct $name {
            $(
                $(#[doc = $field_doc])*
                $(#[serde(rename = $wire)])?
                #[serde(skip_serializing_if = "crate::spec::describe::Field::absent")]
                pub $field: $type,
            )*
            $( $(
                #[doc = concat!("The properties of [`", stringify!($part_type), "`].")]
                #[serde(flatten)]
                pub $part: $part_type,
            )+ )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: spec_default!($($default)?), )*
                    $( $( $part: Default::default(), )+ )?
                }
            }
        }

        impl $crate::spec::describe::Describe for $name {
            const DESCRIPTION: &'static $crate::spec::describe::Description = &$crate::spec::describe::Description {
                name: spec_type_name!($name $($type_name)?),
                own: &[ $(
                    $crate::spec::describe::Prop::new(
                        spec_name!($field $($wire)?),
                        <$type as $crate::spec::describe::Field>::KIND,
                        spec_required!($type $(, $default)?),
                        concat!($($field_doc, "\n"),*),
                    )
                ),* ],
                parts: &[ $( $( <$part_type as $crate::spec::describe::Describe>::DESCRIPTION ),+ )? ],
                doc: concat!($($doc, "\n"),*),
                defaults: || serde_json::to_value(Self::default()).unwrap_or_default(),
            };
        }

        impl $crate::spec::describe::Field for $name {
            const KIND: $crate::spec::describe::Kind = $crate::spec::describe::Kind::Struct(
                <Self as $crate::spec::describe::Describe>::DESCRIPTION,
            );
        }
    };
}

/// A type's name for users: that given, or its Rust name.
macro_rules! spec_type_name {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:ident $type_name:literal) => {
        $type_name
    };
}

/// Declares a set of words. The first is the default.
macro_rules! spec_enum {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident $(as $type_name:literal)? {
            $(#[doc = $first_doc:literal])* $first:ident = $first_wire:literal
            $(, $(#[doc = $word_doc:literal])* $word:ident = $wire:literal )* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $(#[doc = $first_doc])*
            #[serde(rename = $first_wire)]
            #[default]
            $first,
            $( $(#[doc = $word_doc])* #[serde(rename = $wire)] $word ),*
        }

        impl $name {
            /// Every word, in order.
            pub const WORDS: &'static [&'static str] = &[ $first_wire $(, $wire)* ];

            /// The word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_wire,
                    $( Self::$word => $wire ),*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::spec::describe::Field for $name {
            const KIND: $crate::spec::describe::Kind =
                $crate::spec::describe::Kind::Enum(&$crate::spec::describe::Enumeration {
                    name: spec_type_name!($name $($type_name)?),
                    words: Self::WORDS,
                });
        }
    };
}

/// Declares the choice of one of several groups by a tag.
macro_rules! spec_union {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident by $tag:literal {
            $( $(#[doc = $variant_doc:literal])* $variant:ident($type:ty) = $wire:literal $(| $alias:literal)* ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = $tag)]
        pub enum $name {
            $( $(#[doc = $variant_doc])* #[serde(rename = $wire $(, alias = $alias)*)] $variant($type) ),*
        }

        impl $name {
            /// The value of the tag.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $wire ),* }
            }
        }

        impl $crate::spec::describe::DescribeUnion for $name {
            const UNION: &'static $crate::spec::describe::Union = &$crate::spec::describe::Union {
                tag: $tag,
                variants: &[ $( $crate::spec::describe::Variant {
                    name: $wire,
                    aliases: &[ $( $alias ),* ],
                    description: <$type as $crate::spec::describe::Describe>::DESCRIPTION,
                } ),* ],
            };
        }
    };
}
