//! `BlockdevOptions` for `query-qmp-schema`: which drivers there are, and what each takes. Clients look here for what a
//! program can do: libvirt lets a user ask for io_uring if `aio` of `file` has that word.
//!
//! The options themselves are the block library's ([`rhea_block::spec`]), which knows nothing of QMP; a test compares the
//! names here with those that it reads.

use Kind::{Either, Flag, List, Node, NodeOrNull, Number, Object, Server, Text, Words};

use crate::qmp::qapi::{Case, Member, Qapi, Schema, TypeRef};

/// The type of an option.
pub(super) enum Kind {
    Text,
    Flag,
    Number,
    Words(&'static str, &'static [&'static str]),
    /// The name of a node, or one to make.
    Node,
    /// The same, or `null` for none.
    NodeOrNull,
    Object(&'static str, &'static [Opt]),
    List(&'static str, &'static [Opt]),
    Either(&'static str, &'static [Self]),
    /// Where a server is.
    Server,
}

pub(super) struct Opt {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) optional: bool,
    /// The library reads it to refuse it in its own words: clients are not told of it.
    refused: bool,
}

const fn may(name: &'static str, kind: Kind) -> Opt {
    Opt { name, kind, optional: true, refused: false }
}

const fn must(name: &'static str, kind: Kind) -> Opt {
    Opt { name, kind, optional: false, refused: false }
}

const fn refused(name: &'static str, kind: Kind) -> Opt {
    Opt { name, kind, optional: true, refused: true }
}

/// What every driver takes.
pub(super) const COMMON: &[Opt] = &[
    may("node-name", Text),
    may("discard", Words("Discard", &["ignore", "unmap"])),
    may("cache", Object("Cache", &[may("direct", Flag), may("no-flush", Flag)])),
    may("read-only", Flag),
    may("auto-read-only", Flag),
    may("force-share", Flag),
    may("detect-zeroes", Words("DetectZeroes", &["off", "on", "unmap"])),
];

const FILE: &[Opt] = &[
    must("filename", Text),
    may("aio", Words("Aio", &["threads", "native", "io_uring"])),
    may("locking", Words("Locking", &["auto", "on", "off"])),
];

const RAW: &[Opt] = &[must("file", Node), may("offset", Number), may("size", Number)];

const ENCRYPT: &[Opt] = &[may("format", Words("EncryptFormat", &["aes", "luks"])), may("key-secret", Text)];

const OVERLAP_MODE: Kind = Words("OverlapMode", &["none", "constant", "cached", "all"]);

const OVERLAP: &[Opt] = &[
    may("template", OVERLAP_MODE),
    may("main-header", Flag),
    may("active-l1", Flag),
    may("active-l2", Flag),
    may("refcount-table", Flag),
    may("refcount-block", Flag),
    may("snapshot-table", Flag),
    may("inactive-l1", Flag),
    may("inactive-l2", Flag),
    may("bitmap-directory", Flag),
];

const QCOW2: &[Opt] = &[
    must("file", Node),
    may("backing", NodeOrNull),
    may("data-file", Node),
    may("lazy-refcounts", Flag),
    may("pass-discard-request", Flag),
    may("pass-discard-snapshot", Flag),
    may("pass-discard-other", Flag),
    may("cache-size", Number),
    may("l2-cache-size", Number),
    may("l2-cache-entry-size", Number),
    may("refcount-cache-size", Number),
    may("cache-clean-interval", Number),
    may("overlap-check", Either("OverlapChecks", &[Object("OverlapFlags", OVERLAP), OVERLAP_MODE])),
    may("encrypt", Object("Encrypt", ENCRYPT)),
];

const NULL: &[Opt] = &[may("size", Number), may("read-zeroes", Flag)];

const INJECT: &[Opt] = &[
    must("event", Text),
    may("state", Number),
    may("iotype", Text),
    may("errno", Number),
    may("sector", Number),
    may("once", Flag),
    may("immediately", Flag),
];

const SET_STATE: &[Opt] = &[must("event", Text), may("state", Number), may("new_state", Number)];

const BLKDEBUG: &[Opt] = &[
    must("image", Node),
    may("config", Text),
    may("align", Number),
    may("inject-error", List("InjectError", INJECT)),
    may("set-state", List("SetState", SET_STATE)),
];

const NBD: &[Opt] = &[
    must("server", Server),
    may("export", Text),
    may("x-dirty-bitmap", Text),
    may("reconnect-delay", Number),
    may("open-timeout", Number),
    refused("tls-creds", Text),
];

/// Kinds of addresses, and what each takes beside its `type`.
pub(super) const ADDRESSES: [(&str, &[Opt]); 2] =
    [("inet", &[must("host", Text), must("port", Text)]), ("unix", &[must("path", Text), refused("abstract", Flag)])];

/// A driver that stands on one node and takes nothing else.
const ON_FILE: &[Opt] = &[must("file", Node)];

/// Drivers with their own options, in the order of their names.
pub(super) const DRIVERS: [(&str, &[Opt]); 17] = [
    ("blkdebug", BLKDEBUG),
    ("copy-on-read", ON_FILE),
    ("file", FILE),
    ("host_device", FILE),
    ("luks", &[must("file", Node), may("key-secret", Text)]),
    ("nbd", NBD),
    ("null-aio", NULL),
    ("null-co", NULL),
    ("parallels", ON_FILE),
    ("qcow2", QCOW2),
    ("qed", ON_FILE),
    ("raw", RAW),
    ("throttle", &[must("throttle-group", Text), must("file", Node)]),
    ("vdi", ON_FILE),
    ("vhdx", ON_FILE),
    ("vmdk", ON_FILE),
    ("vpc", ON_FILE),
];

/// `BlockdevRef`.
pub(super) fn describe_reference(schema: &mut Schema) -> TypeRef {
    kind(schema, &Node)
}

/// `BlockdevOptions`.
pub(super) fn describe(schema: &mut Schema) -> TypeRef {
    schema.union("spec::BlockdevOptions", "driver", |schema| {
        let names = DRIVERS.map(|(name, _)| name);
        let mut shared = vec![Member::new("driver", schema.enumeration("spec::BlockdevDriver", &names), false)];
        shared.extend(members(schema, COMMON));
        let case = |(name, options): &(&str, &[Opt])| {
            let kind = schema.object(&format!("spec::BlockdevOptions::{name}"), |schema| members(schema, options));
            Case { case: (*name).to_owned(), kind }
        };
        (shared, DRIVERS.iter().map(case).collect())
    })
}

fn members(schema: &mut Schema, options: &[Opt]) -> Vec<Member> {
    let told = options.iter().filter(|option| !option.refused);
    told.map(|option| Member::new(option.name, kind(schema, &option.kind), option.optional)).collect()
}

fn kind(schema: &mut Schema, asked: &Kind) -> TypeRef {
    let object = |schema: &mut Schema, name: &str, options: &[Opt]| {
        schema.object(&format!("spec::Blockdev::{name}"), |schema| members(schema, options))
    };
    match asked {
        Text => String::describe(schema),
        Flag => bool::describe(schema),
        Number => u64::describe(schema),
        Words(name, words) => schema.enumeration(&format!("spec::Blockdev::{name}"), words),
        Node => schema.alternate("spec::BlockdevRef", |schema| vec![describe(schema), String::describe(schema)]),
        NodeOrNull => schema.alternate("spec::BlockdevRefOrNull", |schema| {
            vec![describe(schema), String::describe(schema), schema.builtin("null", "null")]
        }),
        Object(name, options) => object(schema, name, options),
        List(name, options) => {
            let element = object(schema, name, options);
            schema.array(&element)
        }
        Either(name, kinds) => schema.alternate(&format!("spec::Blockdev::{name}"), |schema| {
            kinds.iter().map(|choice| kind(schema, choice)).collect()
        }),
        Server => server(schema),
    }
}

fn server(schema: &mut Schema) -> TypeRef {
    schema.union("spec::SocketAddress", "type", |schema| {
        let tag = schema.enumeration("spec::SocketAddress::type", &["inet", "unix"]);
        let case = |(name, options): (&str, &[Opt])| {
            let kind = schema.object(&format!("spec::SocketAddress::{name}::flat"), |schema| members(schema, options));
            Case { case: name.to_owned(), kind }
        };
        (vec![Member::new("type", tag, false)], ADDRESSES.map(case).to_vec())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rhea_block::spec::BlockdevSpec;
    use serde_json::json;

    use super::*;

    /// Older ways to say where a server is, for `-drive` and names of images.
    const OLD: [&str; 3] = ["host", "port", "path"];

    #[test]
    fn every_driver_is_told_of_with_the_options_that_it_reads() {
        assert_eq!(DRIVERS.map(|(name, _)| name), BlockdevSpec::DRIVERS);
        for (driver, options) in DRIVERS {
            let error = serde_json::from_value::<BlockdevSpec>(json!({"driver": driver, "?": 0})).expect_err("unknown");
            let text = error.to_string();
            let read: BTreeSet<&str> = text.split('`').skip(3).step_by(2).filter(|name| !OLD.contains(name)).collect();

            let known: BTreeSet<&str> = COMMON.iter().chain(options).map(|option| option.name).collect();

            assert_eq!(known, read, "{driver}");
        }
    }
}
