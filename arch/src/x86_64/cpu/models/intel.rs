//! Models after Intel's processors.

use super::{Model, Signature, VERSION, Vendor, Version};

pub(super) const INTEL: &[Model] = &[
    Model {
        name: "coreduo",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 14, stepping: 8 },
        level: 0xa,
        xlevel: 0x8000_0008,
        like: Some("kvm32"),
        features: "acpi ss monitor nx -pse36",
        versions: &[Version { model_id: "Genuine Intel(R) CPU           T2600  @ 2.16GHz", ..VERSION }],
    },
    Model {
        name: "n270",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 28, stepping: 2 },
        level: 0xa,
        xlevel: 0x8000_0008,
        like: Some("coreduo"),
        features: "ssse3 movbe lahf-lm",
        versions: &[Version { model_id: "Intel(R) Atom(TM) CPU N270   @ 1.60GHz", ..VERSION }],
    },
    Model {
        name: "core2duo",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 15, stepping: 11 },
        level: 0xa,
        xlevel: 0x8000_0008,
        like: Some("kvm64"),
        features: "acpi ss monitor ssse3 lahf-lm",
        versions: &[Version { model_id: "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", ..VERSION }],
    },
    Model {
        name: "Conroe",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 15, stepping: 3 },
        level: 0xa,
        xlevel: 0x8000_0008,
        like: Some("kvm64"),
        features: "ssse3 lahf-lm -cx16",
        versions: &[Version { model_id: "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", ..VERSION }],
    },
    Model {
        name: "Penryn",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 23, stepping: 3 },
        level: 0xa,
        xlevel: 0x8000_0008,
        like: Some("Conroe"),
        features: "cx16 sse4.1",
        versions: &[Version { model_id: "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", ..VERSION }],
    },
    Model {
        name: "Nehalem",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 26, stepping: 3 },
        level: 0xb,
        xlevel: 0x8000_0008,
        like: Some("Penryn"),
        features: "sse4.2 popcnt",
        versions: &[
            Version { model_id: "Intel Core i7 9xx (Nehalem Class Core i7)", ..VERSION },
            Version {
                model_id: "Intel Core i7 9xx (Nehalem Core i7, IBRS update)",
                aliases: &["Nehalem-IBRS"],
                changes: "spec-ctrl",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Westmere",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 44, stepping: 1 },
        level: 0xb,
        xlevel: 0x8000_0008,
        like: Some("Nehalem"),
        features: "pclmulqdq aes arat",
        versions: &[
            Version { model_id: "Westmere E56xx/L56xx/X56xx (Nehalem-C)", ..VERSION },
            Version {
                model_id: "Westmere E56xx/L56xx/X56xx (IBRS update)",
                aliases: &["Westmere-IBRS"],
                changes: "spec-ctrl",
                ..VERSION
            },
        ],
    },
    Model {
        name: "SandyBridge",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 42, stepping: 1 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Westmere"),
        features: "x2apic tsc-deadline xsave avx xsaveopt rdtscp",
        versions: &[
            Version { model_id: "Intel Xeon E312xx (Sandy Bridge)", ..VERSION },
            Version {
                model_id: "Intel Xeon E312xx (Sandy Bridge, IBRS update)",
                aliases: &["SandyBridge-IBRS"],
                changes: "spec-ctrl",
                ..VERSION
            },
        ],
    },
    Model {
        name: "IvyBridge",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 58, stepping: 9 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("SandyBridge"),
        features: "f16c rdrand fsgsbase smep erms",
        versions: &[
            Version { model_id: "Intel Xeon E3-12xx v2 (Ivy Bridge)", ..VERSION },
            Version {
                model_id: "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)",
                aliases: &["IvyBridge-IBRS"],
                changes: "spec-ctrl",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Haswell",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 60, stepping: 4 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("IvyBridge"),
        features: "fma pcid movbe bmi1 hle avx2 bmi2 invpcid rtm abm",
        versions: &[
            Version { model_id: "Intel Core Processor (Haswell)", ..VERSION },
            Version {
                model_id: "Intel Core Processor (Haswell, no TSX)",
                aliases: &["Haswell-noTSX"],
                changes: "-hle -rtm",
                stepping: Some(1),
                ..VERSION
            },
            Version {
                model_id: "Intel Core Processor (Haswell, IBRS)",
                aliases: &["Haswell-IBRS"],
                changes: "hle rtm spec-ctrl",
                ..VERSION
            },
            Version {
                model_id: "Intel Core Processor (Haswell, no TSX, IBRS)",
                aliases: &["Haswell-noTSX-IBRS"],
                changes: "-hle -rtm",
                stepping: Some(1),
                ..VERSION
            },
        ],
    },
    Model {
        name: "Broadwell",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 61, stepping: 2 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Haswell"),
        features: "rdseed adx smap 3dnowprefetch",
        versions: &[
            Version { model_id: "Intel Core Processor (Broadwell)", ..VERSION },
            Version {
                model_id: "Intel Core Processor (Broadwell, no TSX)",
                aliases: &["Broadwell-noTSX"],
                changes: "-hle -rtm",
                ..VERSION
            },
            Version {
                model_id: "Intel Core Processor (Broadwell, IBRS)",
                aliases: &["Broadwell-IBRS"],
                changes: "hle rtm spec-ctrl",
                ..VERSION
            },
            Version {
                model_id: "Intel Core Processor (Broadwell, no TSX, IBRS)",
                aliases: &["Broadwell-noTSX-IBRS"],
                changes: "-hle -rtm",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Skylake-Client",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 94, stepping: 3 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Broadwell"),
        features: "xsavec xgetbv1",
        versions: &[
            Version { model_id: "Intel Core Processor (Skylake)", ..VERSION },
            Version {
                model_id: "Intel Core Processor (Skylake, IBRS)",
                aliases: &["Skylake-Client-IBRS"],
                changes: "spec-ctrl",
                ..VERSION
            },
            Version {
                model_id: "Intel Core Processor (Skylake, IBRS, no TSX)",
                aliases: &["Skylake-Client-noTSX-IBRS"],
                changes: "-hle -rtm",
                ..VERSION
            },
            Version {
                model_id: "Intel Core Processor (Skylake, IBRS, no TSX)",
                note: "IBRS, XSAVES, no TSX",
                changes: "xsaves",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Skylake-Server",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 85, stepping: 4 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Skylake-Client"),
        features: "avx512f avx512dq clflushopt clwb avx512cd avx512bw avx512vl pku pdpe1gb",
        versions: &[
            Version { model_id: "Intel Xeon Processor (Skylake)", ..VERSION },
            Version {
                model_id: "Intel Xeon Processor (Skylake, IBRS)",
                aliases: &["Skylake-Server-IBRS"],
                changes: "spec-ctrl -clflushopt",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Skylake, IBRS, no TSX)",
                aliases: &["Skylake-Server-noTSX-IBRS"],
                changes: "-hle -rtm",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Skylake, IBRS, no TSX)",
                note: "IBRS, EPT switching, no TSX",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Skylake, IBRS, no TSX)",
                note: "IBRS, XSAVES, EPT switching, no TSX",
                changes: "xsaves",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Cascadelake-Server",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 85, stepping: 6 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Skylake-Server"),
        features: "avx512vnni spec-ctrl ssbd",
        versions: &[
            Version { model_id: "Intel Xeon Processor (Cascadelake)", ..VERSION },
            Version {
                model_id: "Intel Xeon Processor (Cascadelake)",
                note: "ARCH_CAPABILITIES",
                changes: "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Cascadelake)",
                note: "ARCH_CAPABILITIES, no TSX",
                aliases: &["Cascadelake-Server-noTSX"],
                changes: "-hle -rtm",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Cascadelake)",
                note: "ARCH_CAPABILITIES, EPT switching, no TSX",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Cascadelake)",
                note: "ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX",
                changes: "xsaves",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Cooperlake",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 85, stepping: 10 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Cascadelake-Server"),
        features: "stibp arch-capabilities avx512-bf16 rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no \
                   taa-no",
        versions: &[
            Version { model_id: "Intel Xeon Processor (Cooperlake)", ..VERSION },
            Version { model_id: "Intel Xeon Processor (Cooperlake)", note: "XSAVES", changes: "xsaves", ..VERSION },
        ],
    },
    Model {
        name: "Icelake-Server",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 134, stepping: 0 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Cascadelake-Server"),
        features: "avx512vbmi umip avx512vbmi2 gfni vaes vpclmulqdq avx512bitalg avx512-vpopcntdq la57 wbnoinvd",
        versions: &[
            Version { model_id: "Intel Xeon Processor (Icelake)", ..VERSION },
            Version {
                model_id: "Intel Xeon Processor (Icelake)",
                note: "no TSX",
                aliases: &["Icelake-Server-noTSX"],
                changes: "-hle -rtm",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Icelake)",
                changes: "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no",
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Icelake)",
                changes: "avx512ifma sha-ni rdpid fsrm",
                model: Some(106),
                ..VERSION
            },
            Version {
                model_id: "Intel Xeon Processor (Icelake)",
                note: "XSAVES",
                changes: "xsaves",
                model: Some(106),
                ..VERSION
            },
            Version { model_id: "Intel Xeon Processor (Icelake)", note: "5-level EPT", model: Some(106), ..VERSION },
        ],
    },
    Model {
        name: "SapphireRapids",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 143, stepping: 4 },
        level: 0x20,
        xlevel: 0x8000_0008,
        like: Some("Icelake-Server"),
        features: "avx512ifma sha-ni rdpid bus-lock-detect fsrm serialize tsx-ldtrk amx-bf16 avx512-fp16 amx-tile \
                   amx-int8 arch-capabilities avx-vnni avx512-bf16 fzrm fsrs fsrc xsaves xfd rdctl-no ibrs-all \
                   skip-l1dfl-vmentry mds-no pschange-mc-no taa-no",
        versions: &[Version { model_id: "Intel Xeon Processor (SapphireRapids)", ..VERSION }],
    },
    Model {
        name: "KnightsMill",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 133, stepping: 0 },
        level: 0xd,
        xlevel: 0x8000_0008,
        like: Some("Broadwell"),
        features: "ss avx512f avx512pf avx512er avx512cd avx512-vpopcntdq avx512-4vnniw avx512-4fmaps pdpe1gb -pcid \
                   -hle -invpcid -rtm -smap",
        versions: &[Version { model_id: "Intel Xeon Phi Processor (Knights Mill)", ..VERSION }],
    },
    Model {
        name: "Denverton",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 95, stepping: 1 },
        level: 0x15,
        xlevel: 0x8000_0008,
        like: Some("IvyBridge"),
        features: "monitor movbe mpx rdseed smap clflushopt sha-ni spec-ctrl arch-capabilities ssbd xsavec xgetbv1 \
                   pdpe1gb 3dnowprefetch rdctl-no skip-l1dfl-vmentry -avx -f16c",
        versions: &[
            Version { model_id: "Intel Atom Processor (Denverton)", ..VERSION },
            Version {
                model_id: "Intel Atom Processor (Denverton)",
                note: "no MPX, no MONITOR",
                changes: "-monitor -mpx",
                ..VERSION
            },
            Version {
                model_id: "Intel Atom Processor (Denverton)",
                note: "XSAVES, no MPX, no MONITOR",
                changes: "xsaves",
                ..VERSION
            },
        ],
    },
    Model {
        name: "Snowridge",
        vendor: Vendor::Intel,
        signature: Signature { family: 6, model: 134, stepping: 1 },
        level: 0x1b,
        xlevel: 0x8000_0008,
        like: Some("Denverton"),
        features: "clwb umip gfni cldemote movdiri movdir64b core-capability split-lock-detect -rdctl-no \
                   -skip-l1dfl-vmentry",
        versions: &[
            Version { model_id: "Intel Atom Processor (SnowRidge)", ..VERSION },
            Version { model_id: "Intel Atom Processor (Snowridge, no MPX)", changes: "-mpx", ..VERSION },
            Version {
                model_id: "Intel Atom Processor (Snowridge, no MPX)",
                note: "XSAVES, no MPX",
                changes: "xsaves",
                ..VERSION
            },
            Version {
                model_id: "Intel Atom Processor (Snowridge, no MPX)",
                note: "no split lock detect, no core-capability",
                changes: "-core-capability -split-lock-detect",
                ..VERSION
            },
        ],
    },
];
