//! The options of each format that is written: name, form, meaning, in the order in which `create` shows them.

/// Name, form and meaning of an option.
pub(in crate::img) type Known = (&'static str, &'static str, &'static str);

/// The form of a switch.
pub(super) const SWITCH: &str = "bool (on/off)";

pub(super) const QCOW2: [Known; 23] = [
    ("encryption", SWITCH, "encrypt with the AES of old images; encrypt.format=luks is what to use"),
    ("encrypt.format", "str", "encrypt the guest's data: luks, or aes for old programs"),
    ("encrypt.key-secret", "str", "secret object with the password"),
    ("encrypt.cipher-alg", "str", "cipher: aes-256, and others with keys of 128, 192 and 256 bits"),
    ("encrypt.cipher-mode", "str", "how blocks are chained: xts, cbc or ecb"),
    ("encrypt.ivgen-alg", "str", "what initialization vectors are made of: plain64, plain or essiv"),
    ("encrypt.ivgen-hash-alg", "str", "hash of essiv"),
    ("encrypt.hash-alg", "str", "hash of the key derivation"),
    ("encrypt.iter-time", "num", "milliseconds that one key derivation takes"),
    ("cluster_size", "size", "bytes of a cluster: a power of two from 512 to 2M"),
    ("extended_l2", SWITCH, "32 subclusters in each cluster"),
    ("preallocation", "str", "space set aside at once: off, metadata, falloc or full"),
    ("compression_type", "str", "how compressed clusters are packed: zlib or zstd"),
    ("size", "size", "bytes of the disk"),
    ("compat", "str", "version of the format: 0.10 (v2) or 1.1 (v3)"),
    ("backing_file", "str", "image beneath this one"),
    ("backing_fmt", "str", "format of the image beneath"),
    ("data_file", "str", "file for the guest's data, with only metadata in the image"),
    ("data_file_raw", SWITCH, "the data file can be used as a raw image at any time"),
    ("lazy_refcounts", SWITCH, "reference counts may be written late"),
    ("refcount_bits", "num", "bits of a reference count: a power of two from 1 to 64"),
    NOCOW,
    EXTENT,
];

pub(super) const LUKS: [Known; 11] = [
    ("size", "size", "bytes of the disk"),
    ("key-secret", "str", "secret object with the password"),
    ("cipher-alg", "str", "cipher: aes-256, and others with keys of 128, 192 and 256 bits"),
    ("cipher-mode", "str", "how blocks are chained: xts, cbc or ecb"),
    ("ivgen-alg", "str", "what initialization vectors are made of: plain64, plain or essiv"),
    ("ivgen-hash-alg", "str", "hash of essiv"),
    ("hash-alg", "str", "hash of the key derivation"),
    ("iter-time", "num", "milliseconds that one key derivation takes"),
    NOCOW,
    ("preallocation", "str", "space set aside at once: off, falloc or full"),
    EXTENT,
];

pub(super) const RAW: [Known; 4] = [
    ("size", "size", "bytes of the disk"),
    NOCOW,
    ("preallocation", "str", "space set aside at once: off, falloc or full"),
    EXTENT,
];

const NOCOW: Known = ("nocow", SWITCH, "ask btrfs not to copy on write");
const EXTENT: Known =
    ("extent_size_hint", "size", "extent size for the file, where its file system takes one; 0: none");

/// What of a qcow2 image `amend` changes.
pub(super) const AMEND: [Known; 13] = [
    ("backing_file", "str", "not changed here: see rebase"),
    ("backing_fmt", "str", "not changed here: see rebase"),
    ("compat", "str", "version of the format: 0.10 (v2) or 1.1 (v3)"),
    ("data_file", "str", "another name for the data file; its content is left alone"),
    ("data_file_raw", SWITCH, "the data file can be used as a raw image at any time; only off is taken"),
    ("encrypt.iter-time", "num", "milliseconds that one key derivation takes"),
    ("encrypt.keyslot", "num", "the key slot"),
    ("encrypt.new-secret", "str", "secret object with a new password"),
    ("encrypt.old-secret", "str", "secret object with the password of the slots to erase"),
    ("encrypt.state", "str", "active: add a password; inactive: erase key slots"),
    ("lazy_refcounts", SWITCH, "reference counts may be written late"),
    ("refcount_bits", "num", "bits of a reference count: a power of two from 1 to 64"),
    ("size", "size", "bytes of the disk"),
];

/// What of a LUKS volume `amend` changes.
pub(super) const AMEND_LUKS: [Known; 5] = [
    ("iter-time", "num", "milliseconds that one key derivation takes"),
    ("keyslot", "num", "the key slot"),
    ("new-secret", "str", "secret object with a new password"),
    ("old-secret", "str", "secret object with the password of the slots to erase"),
    ("state", "str", "active: add a password; inactive: erase key slots"),
];

/// A table for people, in the alphabet's order.
pub(super) fn table(title: &str, known: &[Known]) -> String {
    let mut known = known.to_vec();
    known.sort_unstable();
    let mut text = title.to_owned();
    for (name, form, meaning) in known {
        text += &format!("\n  {:<22} - {meaning}", format!("{name}=<{form}>"));
    }
    text
}
