use super::*;

#[test]
fn distance_counts_edits() {
    assert_eq!(distance("kitten", "sitting"), 3);
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(distance("avx", "avx"), 0);
}

#[test]
fn typo_finds_its_name() {
    let names = ["Haswell", "Broadwell", "Westmere"];

    assert_eq!(nearest("hasswell", names.into_iter()), ["Haswell"]);
}

#[test]
fn beginning_of_names_finds_them() {
    let names = ["Icelake-Server", "Icelake-Server-v1", "EPYC"];

    assert_eq!(nearest("icelake", names.into_iter()), ["Icelake-Server", "Icelake-Server-v1"]);
}

#[test]
fn nothing_near_offers_nothing() {
    assert_eq!(offer(&nearest("zzzzzz", ["avx"].into_iter())), "");
    assert_eq!(offer(&nearest(&"x".repeat(100_000), ["avx"].into_iter())), "");
}

#[test]
fn offers_read_as_a_question() {
    let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();

    assert_eq!(offer(&names(&["avx"])), "; did you mean avx?");
    assert_eq!(offer(&names(&["avx", "avx2", "xop"])), "; did you mean avx, avx2 or xop?");
}
