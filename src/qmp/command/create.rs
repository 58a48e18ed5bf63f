//! The arguments of `blockdev-create`.

use super::spec_args::BlockdevRef;

qapi_enum! {
    /// How space is set aside.
    pub enum NewPreallocation {
        /// Not at all.
        Off = "off",
        /// For the format's own tables.
        Metadata = "metadata",
        /// Without writing.
        Falloc = "falloc",
        /// By writing zeroes.
        Full = "full",
    }
}

qapi_enum! {
    /// Version of the format.
    pub enum Qcow2Version {
        /// 0.10.
        V2 = "v2",
        /// 1.1.
        V3 = "v3",
    }
}

qapi_enum! {
    /// How clusters are compressed.
    pub enum Qcow2CompressionType {
        /// By deflate.
        Zlib = "zlib",
        /// By zstd.
        Zstd = "zstd",
    }
}

qapi_enum! {
    /// A cipher.
    pub enum CipherAlg {
        /// AES with 128 bits.
        Aes128 = "aes-128",
        /// With 192.
        Aes192 = "aes-192",
        /// With 256.
        Aes256 = "aes-256",
        /// Serpent with 128 bits.
        Serpent128 = "serpent-128",
        /// With 192.
        Serpent192 = "serpent-192",
        /// With 256.
        Serpent256 = "serpent-256",
        /// Twofish with 128 bits.
        Twofish128 = "twofish-128",
        /// With 192.
        Twofish192 = "twofish-192",
        /// With 256.
        Twofish256 = "twofish-256",
    }
}

qapi_enum! {
    /// How a cipher's blocks are chained.
    pub enum CipherMode {
        /// Not at all.
        Ecb = "ecb",
        /// Each with the one before.
        Cbc = "cbc",
        /// By their place in the sector.
        Xts = "xts",
    }
}

qapi_enum! {
    /// What initialization vectors are made of.
    pub enum IvGenAlg {
        /// The lower 32 bits of the sector's number.
        Plain = "plain",
        /// The sector's number.
        Plain64 = "plain64",
        /// That, encrypted with a hash of the key.
        Essiv = "essiv",
    }
}

qapi_enum! {
    /// A hash.
    pub enum HashAlg {
        /// MD5, which only means something to who does not use it.
        Md5 = "md5",
        /// SHA-1.
        Sha1 = "sha1",
        /// SHA-2 with 224 bits.
        Sha224 = "sha224",
        /// With 256.
        Sha256 = "sha256",
        /// With 384.
        Sha384 = "sha384",
        /// With 512.
        Sha512 = "sha512",
        /// RIPEMD-160.
        Ripemd160 = "ripemd160",
    }
}

qapi_struct! {
    /// A new LUKS header.
    pub struct LuksHeader {
        /// The object with the password of the first key slot.
        pub key_secret: Option<String>,
        /// The cipher; `aes-256` without.
        pub cipher_alg: Option<CipherAlg>,
        /// How its blocks are chained; `xts` without.
        pub cipher_mode: Option<CipherMode>,
        /// What initialization vectors are made of; `plain64` without.
        pub ivgen_alg: Option<IvGenAlg>,
        /// The hash for `essiv`; `sha256` without.
        pub ivgen_hash_alg: Option<HashAlg>,
        /// The hash of key derivation; `sha256` without.
        pub hash_alg: Option<HashAlg>,
        /// Milliseconds that one key derivation is to take; 2000 without.
        pub iter_time: Option<u64>,
    }
}

qapi_struct! {
    /// The encryption of old qcow2 images.
    pub struct AesHeader {
        /// The object with the password.
        pub key_secret: Option<String>,
    }
}

qapi_union! {
    /// How a new image is encrypted.
    pub enum CreateEncryption of CreateEncryptionFormat by "format" {
        /// As old images are.
        Qcow(AesHeader) = "qcow",
        /// With LUKS.
        Luks(LuksHeader) = "luks",
    }
}

qapi_struct! {
    /// A new volume of LUKS.
    pub struct CreateLuks {
        /// Its header.
        ..header: LuksHeader,
        /// The node that it is in, or one to open for it.
        pub file: BlockdevRef,
        /// Size of the disk in bytes.
        pub size: u64,
        /// How space is set aside.
        pub preallocation: Option<NewPreallocation>,
    }
}

qapi_struct! {
    /// A new file.
    pub struct CreateFile {
        /// Its path.
        pub filename: String,
        /// Its size in bytes.
        pub size: u64,
        /// How space is set aside.
        pub preallocation: Option<NewPreallocation>,
        /// Ask btrfs to write it in place.
        pub nocow: Option<bool>,
    }
}

qapi_struct! {
    /// A new qcow2 image.
    pub struct CreateQcow2 {
        /// The node that it is in, or one to open for it.
        pub file: BlockdevRef,
        /// The node that the guest's data are in, or one to open for it; the image's own without.
        pub data_file: Option<BlockdevRef>,
        /// That one is to be readable as raw.
        pub data_file_raw: Option<bool>,
        /// Size of the disk in bytes.
        pub size: u64,
        /// Version of the format; 1.1 without.
        pub version: Option<Qcow2Version>,
        /// What lies beneath, for the header.
        pub backing_file: Option<String>,
        /// Its format, for the header.
        pub backing_fmt: Option<String>,
        /// How it is encrypted.
        pub encrypt: Option<CreateEncryption>,
        /// Bytes of a cluster; 65536 without.
        pub cluster_size: Option<u64>,
        /// How space is set aside.
        pub preallocation: Option<NewPreallocation>,
        /// Reference counts may be postponed.
        pub lazy_refcounts: Option<bool>,
        /// Bits of a reference count; 16 without.
        pub refcount_bits: Option<u32>,
        /// How clusters are compressed.
        pub compression_type: Option<Qcow2CompressionType>,
        /// Subclusters.
        pub extended_l2: Option<bool>,
    }
}

qapi_union! {
    /// What is to be made.
    pub enum BlockdevCreateOptions of CreatableDriver by "driver" {
        /// A file.
        File(CreateFile) = "file",
        /// A volume of LUKS in a node.
        Luks(CreateLuks) = "luks",
        /// A qcow2 image in a node.
        Qcow2(Box<CreateQcow2>) = "qcow2",
    }
}
