use crate::format::qcow2::entry::{ALL_ALLOCATED, Entry, Mapping};

/// The short look at an entry says what the long one says, for every entry of up to three bits and clusters of every size.
#[test]
fn standard_entries_are_those_that_map_to_data_and_have_no_fault() {
    let bits: Vec<u64> = (0..64).map(|bit| 1 << bit).chain([0]).collect();
    for cluster_bits in 9..=21 {
        for one in &bits {
            for other in &bits {
                for third in &bits {
                    let entry = Entry { word: one | other | third, bitmap: ALL_ALLOCATED };
                    let long = match entry.mapping(false, false, 0) {
                        Mapping::Data(host) if entry.fault(cluster_bits, false).is_none() => Some(host),
                        _ => None,
                    };
                    let short = entry.standard((1 << cluster_bits) - 1).filter(|host| *host != 0);
                    assert_eq!(short, long, "{:#x}, clusters of 2^{cluster_bits} bytes", entry.word);
                }
            }
        }
    }
}
