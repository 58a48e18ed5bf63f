use std::fs;

use rhea_arch::x86_64::layout::MemoryLayout;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::*;

const MIB: u64 = 1 << 20;

fn source(id: &str, size: u64) -> RamSource {
    RamSource { id: id.into(), size, backing: Backing::Anonymous, share: false, prealloc: 0, dump: true, merge: false }
}

fn plan(sources: Vec<RamSource>) -> RamPlan {
    let sizes: Vec<u64> = sources.iter().map(|source| source.size).collect();
    let layout = MemoryLayout::new(sizes.iter().sum(), 40).unwrap();
    RamPlan { shares: layout.deal(&sizes), sources, spare: Vec::new(), lock: false }
}

/// What the kernel says of the mapping at `address`: a field of `/proc/self/smaps`.
fn smaps(address: usize, field: &str) -> String {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let range = usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap();
            inside = range.contains(&address);
        } else if inside && first == field {
            return line[field.len()..].trim().to_owned();
        }
    }
    panic!("nothing is mapped at {address:#x}");
}

fn host_address(ram: &GuestRam, guest: u64) -> usize {
    ram.get_host_address(GuestAddress(guest)).unwrap() as usize
}

#[test]
fn host_and_guest_addresses_agree_modulo_a_huge_page() {
    let ram = map(&plan(vec![source("a", 5 * MIB), source("b", 59 * MIB)])).unwrap();

    for guest in [0, 5 * MIB] {
        assert_eq!(host_address(&ram, guest) % HUGE, guest as usize % HUGE);
    }
}

#[test]
fn memory_above_4_gib_agrees_modulo_a_gigabyte() {
    let ram = map(&plan(vec![source("a", 5 << 30)])).unwrap();

    assert_eq!(ram.num_regions(), 2);
    for guest in [0, 4 << 30] {
        assert_eq!(host_address(&ram, guest) % GIANT, 0);
    }
}

#[test]
fn huge_pages_are_advised() {
    let ram = map(&plan(vec![source("a", 64 * MIB)])).unwrap();

    let flags = smaps(host_address(&ram, 0), "VmFlags:");

    assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
}

#[test]
fn memory_without_dump_and_with_merging_says_so_to_the_kernel() {
    let ram = map(&plan(vec![RamSource { dump: false, merge: true, ..source("a", 8 * MIB) }])).unwrap();

    let flags = smaps(host_address(&ram, 0), "VmFlags:");

    assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
    let merges = fs::exists("/sys/kernel/mm/ksm").unwrap();
    assert_eq!(flags.split(' ').any(|flag| flag == "mg"), merges, "{flags}");
}

#[test]
fn preallocated_memory_is_resident_whatever_the_number_of_threads() {
    for threads in [1, 3, 64] {
        let ram = map(&plan(vec![RamSource { prealloc: threads, ..source("a", 16 * MIB) }])).unwrap();

        assert_eq!(smaps(host_address(&ram, 0), "Rss:"), "16384 kB");
    }
}

#[test]
fn locked_memory_is_locked() {
    let ram = map(&RamPlan { lock: true, ..plan(vec![source("a", 4 * MIB)]) }).unwrap();

    assert_eq!(smaps(host_address(&ram, 0), "Locked:"), "4096 kB");
}

#[test]
fn private_file_keeps_what_the_guest_writes_from_the_file_and_shared_does_not() {
    let place = tempfile::tempdir().unwrap();
    for (share, expected) in [(false, 0), (true, 7)] {
        let path = place.path().join(format!("ram-{share}"));
        let backing = Backing::File(path.clone());
        let ram = map(&plan(vec![RamSource { backing, share, ..source("a", 2 * MIB) }])).unwrap();

        ram.write_slice(&[7], GuestAddress(MIB)).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * MIB);
        assert_eq!(fs::read(&path).unwrap()[MIB as usize], expected);
    }
}

#[test]
fn file_in_a_directory_leaves_no_name_behind() {
    let place = tempfile::tempdir().unwrap();
    let backing = Backing::File(place.path().to_owned());

    let ram = map(&plan(vec![RamSource { backing, share: true, ..source("a", 2 * MIB) }])).unwrap();

    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    assert!(ram.find_region(GuestAddress(0)).unwrap().file_offset().is_some());
}

#[test]
fn memfd_is_sealed_against_growing_and_shrinking() {
    let backing = Backing::Memfd { hugetlb: None };
    let ram = map(&plan(vec![RamSource { backing, share: true, ..source("a", 2 * MIB) }])).unwrap();

    let file = ram.find_region(GuestAddress(0)).unwrap().file_offset().unwrap().file();

    assert!(file.set_len(MIB).is_err());
    assert!(file.set_len(4 * MIB).is_err());
}

#[test]
fn second_share_of_a_file_begins_where_the_first_ended() {
    let backing = Backing::Memfd { hugetlb: None };
    let ram = map(&plan(vec![RamSource { backing, share: true, ..source("a", 5 << 30) }])).unwrap();

    let offsets: Vec<_> = ram.iter().map(|region| region.file_offset().unwrap().start()).collect();

    assert_eq!(offsets, [0, 3 << 30]);
}

#[test]
fn more_huge_pages_than_the_host_has_are_refused_with_where_to_reserve_them() {
    let backing = Backing::Memfd { hugetlb: Some(2 * MIB) };
    let asked = plan(vec![RamSource { backing, share: true, ..source("big", 1 << 38) }]);

    let error = map(&asked).unwrap_err();

    let expected = "memory \"big\": the host has not enough free huge pages for 3221225472 bytes; reserve more in \
                    /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn huge_page_size_that_the_host_has_not_is_refused() {
    let backing = Backing::Memfd { hugetlb: Some(16 * MIB) };
    let asked = plan(vec![RamSource { backing, share: true, ..source("odd", 64 * MIB) }]);

    let error = map(&asked).unwrap_err();

    assert_eq!(
        error.to_string(),
        "memory \"odd\": the host has no huge pages of 16777216 bytes; 'hugetlbsize' takes those of \
         /sys/kernel/mm/hugepages"
    );
}

#[test]
fn size_that_is_no_multiple_of_a_huge_page_is_refused() {
    let backing = Backing::Memfd { hugetlb: Some(2 * MIB) };
    let asked = plan(vec![RamSource { backing, share: true, ..source("odd", 65 * MIB) }]);

    let error = map(&asked).unwrap_err();

    assert_eq!(
        error.to_string(),
        "memory \"odd\": 68157440 bytes are not a multiple of its huge pages of 2097152 bytes; change -m and 'size'"
    );
}

#[test]
fn file_that_cannot_be_made_is_refused_with_its_path() {
    let backing = Backing::File("/nonexistent/ram".into());

    let error = map(&plan(vec![RamSource { backing, ..source("f", 2 * MIB) }])).unwrap_err();

    assert_eq!(error.to_string(), "memory \"f\": cannot open /nonexistent/ram");
}

/// Takes pages of the host's pool where the test may change it, and gives them back.
struct HugePages(String);

impl HugePages {
    const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn reserve(pages: u32) -> Option<Self> {
        let before = fs::read_to_string(Self::COUNT).ok()?;
        let wanted = before.trim().parse::<u32>().ok()? + pages;
        let kept = Self(before);
        fs::write(Self::COUNT, wanted.to_string()).ok()?;
        let now: u32 = fs::read_to_string(Self::COUNT).ok()?.trim().parse().ok()?;
        (now >= wanted).then_some(kept)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::COUNT, &self.0);
    }
}

#[test]
fn reserved_huge_pages_become_guest_memory() {
    let Some(_pool) = HugePages::reserve(4) else {
        println!("not run: huge pages can only be reserved by root on a host that has them");
        return;
    };
    let backing = Backing::Memfd { hugetlb: Some(2 * MIB) };
    let asked = plan(vec![RamSource { backing, share: true, prealloc: 1, ..source("a", 8 * MIB) }]);

    let ram = map(&asked).unwrap();

    let place = host_address(&ram, 0);
    assert_eq!(smaps(place, "KernelPageSize:"), "2048 kB");
    assert_eq!(smaps(place, "Private_Hugetlb:"), "8192 kB");
}
