use super::*;
use vm_memory::GuestMemoryMmap;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

/// Walks the boot page tables as the processor does (Intel SDM volume 3, 4.5.4).
fn translate(mem: &GuestMemoryMmap, cr3: u64, linear: u64) -> Option<u64> {
    let entry = |table: u64, index: u64| mem.read_obj::<u64>(GuestAddress(table + index * 8)).unwrap();
    let present = |value: u64| (value & PTE_PRESENT != 0).then_some(value);
    let pml4e = present(entry(cr3, (linear >> 39) & 511))?;
    let pdpte = present(entry(pml4e & !0xfff, (linear >> 30) & 511))?;
    let pde = present(entry(pdpte & !0xfff, (linear >> 21) & 511))?;
    Some((pde & !0x1f_ffff) + (linear & 0x1f_ffff))
}

#[test]
fn linux64_maps_the_first_4_gib_and_no_more() {
    let mem = memory();
    let mut sregs = kvm_sregs::default();

    let regs = EntryState::Linux64 { rip: 0x100_0000, rsi: 0x7000 }.registers(&mem, &mut sregs).unwrap();

    assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0000, 0x7000, 2));
    assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db, sregs.ds.selector), (0x10, 1, 0, 0x18));
    assert_eq!(sregs.cr0 & (CR0_PG | CR0_PE), CR0_PG | CR0_PE);
    for address in [0, 0x7123, 0x100_0000, 0x7fff_ffff, 0xffff_ffff] {
        assert_eq!(translate(&mem, sregs.cr3, address), Some(address));
    }
    assert_eq!(translate(&mem, sregs.cr3, 1 << 32), None);
    assert_eq!(translate(&mem, sregs.cr3, 1 << 39), None);
}

#[test]
fn cached_segments_agree_with_the_gdt() {
    let mem = memory();
    for (state, code) in [
        (EntryState::Linux64 { rip: 0, rsi: 0 }, 0x00af_9b00_0000_ffffu64),
        (EntryState::Protected32 { eip: 0, eax: 0, ebx: 0, esi: 0 }, 0x00cf_9b00_0000_ffff),
    ] {
        let mut sregs = kvm_sregs::default();
        state.registers(&mem, &mut sregs).unwrap();

        let descriptor =
            |selector: u16| mem.read_obj::<u64>(GuestAddress(sregs.gdt.base + u64::from(selector))).unwrap();
        assert_eq!(descriptor(sregs.cs.selector), code);
        for (segment, value) in [(sregs.cs, descriptor(sregs.cs.selector)), (sregs.ds, descriptor(sregs.ds.selector))] {
            assert_eq!(u64::from(segment.type_), (value >> 40) & 0xf);
            assert_eq!(u64::from(segment.l), (value >> 53) & 1);
            assert_eq!(u64::from(segment.db), (value >> 54) & 1);
        }
        assert_eq!(u64::from(sregs.tr.type_), (descriptor(sregs.tr.selector) >> 40) & 0xf);
        assert!(usize::from(sregs.gdt.limit) >= usize::from(sregs.tr.selector) + 7);
    }
}

#[test]
fn protected_mode_hands_over_the_protocols_registers() {
    let mut sregs = kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() };

    let regs = EntryState::Protected32 { eip: 0x10_0000, eax: 0x2bad_b002, ebx: 0x9500, esi: 0 }
        .registers(&memory(), &mut sregs)
        .unwrap();

    assert_eq!((regs.rip, regs.rax, regs.rbx), (0x10_0000, 0x2bad_b002, 0x9500));
    assert_eq!((sregs.cr0 & CR0_PG, sregs.cr0 & CR0_PE, sregs.efer), (0, CR0_PE, 0));
    assert_eq!(sregs.apic_base, 0xfee0_0900);
}

#[test]
fn reset_begins_sixteen_bytes_below_4_gib() {
    let mut sregs = kvm_sregs { cr3: 0x9000, efer: EFER_LMA, ..Default::default() };

    let regs = EntryState::RealModeReset.registers(&memory(), &mut sregs).unwrap();

    assert_eq!(sregs.cs.base + regs.rip, 0xffff_fff0);
    assert_eq!((sregs.cr0, sregs.cr3, sregs.efer), (0x6000_0010, 0, 0));
}

#[test]
fn memory_too_small_for_the_tables_is_an_error() {
    let mem: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();

    assert!(EntryState::Linux64 { rip: 0, rsi: 0 }.registers(&mem, &mut kvm_sregs::default()).is_err());
}
