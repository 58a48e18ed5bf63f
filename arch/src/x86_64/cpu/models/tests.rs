use super::*;

#[test]
fn plain_name_is_version_1() {
    assert_eq!(find("Haswell").unwrap(), find("Haswell-v1").unwrap());
}

#[test]
fn alias_is_its_version() {
    let alias = find("Haswell-noTSX").unwrap();

    assert_eq!(alias.name, "Haswell-v2");
    assert_eq!(alias.description, "Intel Core Processor (Haswell, no TSX)");
    assert_eq!(alias.signature.stepping, 1);
    assert!(!alias.features.has_name("rtm") && alias.features.has_name("avx2"));
}

#[test]
fn versions_build_on_one_another() {
    let first = find("Icelake-Server-v1").unwrap();
    let fifth = find("Icelake-Server-v5").unwrap();

    assert!(first.features.has_name("hle") && !fifth.features.has_name("hle"));
    assert!(fifth.features.has_name("xsaves") && fifth.features.has_name("taa-no") && fifth.features.has_name("rdpid"));
    assert_eq!((first.signature.model, fifth.signature.model), (134, 106));
}

#[test]
fn note_follows_the_brand_in_lists() {
    let definition = find("Cascadelake-Server-v3").unwrap();

    assert_eq!(definition.model_id, "Intel Xeon Processor (Cascadelake)");
    assert_eq!(definition.description, "Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, no TSX]");
}

#[test]
fn unknown_names_are_not_found() {
    for name in ["", "Haswell-v0", "Haswell-v5", "Haswell-v01", "haswell", "Haswell-"] {
        assert!(find(name).is_none(), "{name}");
    }
}

#[test]
fn every_model_builds_on_an_earlier_one() {
    let order: Vec<_> = models().map(|m| m.name).collect();

    for (n, model) in models().enumerate() {
        assert!(model.like.is_none_or(|like| order[..n].contains(&like)), "{}", model.name);
    }
}

#[test]
fn every_word_in_the_tables_is_a_feature() {
    let words = models().flat_map(|m| m.versions.iter().map(|v| v.changes).chain([m.features]));

    for word in words.flat_map(str::split_ascii_whitespace) {
        assert!(features::named(word.trim_start_matches('-')).next().is_some(), "{word}");
    }
}

#[test]
fn every_name_is_found_once() {
    let names = names();
    let mut distinct: Vec<_> = names.iter().map(|(name, _)| name).collect();

    distinct.dedup();

    assert_eq!(distinct.len(), names.len());
    assert!(names.iter().all(|(name, _)| find(name).is_some()));
}

#[test]
fn instruction_sets_grow_with_the_generations() {
    let features = |name| find(name).unwrap().features;

    assert_eq!(features("SandyBridge").without(&features("IvyBridge")), FeatureSet::new());
    assert!(features("Skylake-Server").has_name("avx512vl") && !features("Skylake-Client").has_name("avx512f"));
    assert!(features("SapphireRapids").has_name("amx-tile") && features("SapphireRapids").has_name("mds-no"));
    assert!(features("EPYC-Rome").has_name("clwb") && !features("EPYC").has_name("clwb"));
    assert!(features("EPYC-Milan-v2").has_name("vaes") && !features("EPYC-Milan").has_name("vaes"));
    assert!(!features("kvm32").has_name("lm") && features("kvm64").has_name("lm"));
}
