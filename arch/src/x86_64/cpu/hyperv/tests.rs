use super::*;

fn with(names: &[&str]) -> Enlightenments {
    let mut set = Enlightenments::default();
    names.iter().for_each(|name| set.set(find(name).unwrap(), true));
    set
}

/// A kernel that offers everything.
fn everything() -> CpuidTable {
    let mut table = CpuidTable::new();
    table.set(FEATURES, None, [u32::MAX; 4]);
    table.set(ADVICE, None, [u32::MAX; 4]);
    table
}

fn words(set: &Enlightenments, leaf: u32) -> [u32; 4] {
    let mut table = CpuidTable::new();
    set.describe(&mut table);
    table.get(leaf, 0).map(|e| [e.eax, e.ebx, e.ecx, e.edx]).unwrap()
}

#[test]
fn each_announces_its_bits() {
    let set = with(&["hv-vpindex", "hv-time", "hv-relaxed", "hv-frequencies"]);

    // Time counter, hypercalls, processor index, reference TSC, frequencies.
    assert_eq!(words(&set, FEATURES)[0], 1 << 1 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11);
    assert_eq!(words(&set, FEATURES)[3], 1 << 3 | 1 << 8);
    assert_eq!(words(&set, ADVICE), [1 << 5, u32::MAX, 0, 0]);
}

#[test]
fn synthetic_interrupts_bring_posting_and_signalling() {
    assert_eq!(words(&with(&["hv-synic"]), FEATURES)[1], 1 << 4 | 1 << 5);
    assert_eq!(words(&with(&["hv-time"]), FEATURES)[1], 0);
}

#[test]
fn vendor_and_spinlocks_are_told() {
    let set = Enlightenments { vendor: Some(*b"ABCDEFGHIJKL"), spinlocks: Some(0x1fff), ..with(&[]) };

    assert_eq!(words(&set, 0x4000_0000)[1..], [0x4443_4241, 0x4847_4645, 0x4c4b_4a49]);
    assert_eq!(words(&set, ADVICE)[1], 0x1fff);
    assert_eq!(words(&set, 0x4000_0001)[0].to_le_bytes(), *b"Hv#1");
}

#[test]
fn one_without_what_it_builds_on_is_refused() {
    let refused = with(&["hv-stimer", "hv-time"]).check(Some(&everything()));

    assert_eq!(refused, Err(CpuError::NeedsEnlightenment { feature: "hv-stimer", needed: "hv-synic" }));
}

#[test]
fn one_that_the_kernel_lacks_is_refused() {
    let refused = with(&["hv-reset"]).check(None);

    assert_eq!(refused, Err(CpuError::NoEnlightenment { feature: "hv-reset" }));
    assert_eq!(with(&["hv-relaxed"]).check(None), Ok(()));
    assert_eq!(with(&["hv-reset"]).check(Some(&everything())), Ok(()));
}

#[test]
fn every_need_is_in_the_table() {
    assert!(TABLE.iter().flat_map(|e| e.needs).all(|name| find(name).is_some()));
    assert!(TABLE.len() <= 32);
}
