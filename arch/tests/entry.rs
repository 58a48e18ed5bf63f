//! Kernels of a few instructions, loaded and entered by each boot protocol. Needs `/dev/kvm`; software KVM is enough.
//!
//! Each reloads its segments, which shows that the descriptor table says what the processor was given, and reports what
//! the protocol promises in registers and memory.

use std::path::Path;

use rhea_arch::kvm::{Access, Exit, Host, HostRange, RunState, Vm, install_kick_signal};
use rhea_arch::x86_64::boot::{Images, Options};
use rhea_arch::x86_64::entry::EntryState;
use rhea_arch::x86_64::layout::MemoryLayout;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const RAM: u64 = 32 << 20;
const LOAD: u32 = 0x20_0000;
/// Where the guest reports, and where it says that it is done.
const REPORT: u16 = 0x1234;
const DONE: u16 = 0xff;

/// 64-bit: `ds` and `cs` reloaded, then `rsi` and the double word at `rsi + 0x202`.
const LINUX_64: &[u8] = &[
    0xb8, 0x18, 0, 0, 0, // mov eax, 0x18
    0x8e, 0xd8, // mov ds, eax
    0x6a, 0x10, // push 0x10
    0x48, 0x8d, 0x05, 3, 0, 0, 0,    // lea rax, [rip + 3]
    0x50, // push rax
    0x48, 0xcb, // retfq
    0x66, 0xba, 0x34, 0x12, // mov dx, REPORT
    0x89, 0xf0, // mov eax, esi
    0xef, // out dx, eax
    0x8b, 0x86, 0x02, 0x02, 0, 0,    // mov eax, [rsi + 0x202]
    0xef, // out dx, eax
    0xe6, 0xff, // out DONE, al
];

/// 32-bit, to be run at `LOAD + CODE`: `ds` and `cs` reloaded, then `eax`, `ebx`, and the double word at `ebx`.
const PROTECTED_32: &[u8] = &[
    0x89, 0xc1, // mov ecx, eax
    0xb8, 0x18, 0, 0, 0, // mov eax, 0x18
    0x8e, 0xd8, // mov ds, eax
    0xea, 0x50, 0x01, 0x20, 0, 0x10, 0, // jmp 0x10:LOAD + CODE + 16
    0x66, 0xba, 0x34, 0x12, // mov dx, REPORT
    0x89, 0xc8, // mov eax, ecx
    0xef, // out dx, eax
    0x89, 0xd8, // mov eax, ebx
    0xef, // out dx, eax
    0x8b, 0x03, // mov eax, [ebx]
    0xef, // out dx, eax
    0xe6, 0xff, // out DONE, al
];
/// Where the code lies in each kernel's file and image.
const CODE: u32 = 0x140;

/// Loads a kernel, enters it, and gives what it reports.
fn run(kernel: &[u8]) -> (EntryState, Vec<u32>) {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), kernel).expect("file");
    install_kick_signal().expect("signal handler");
    let host = Host::open(Path::new("/dev/kvm")).unwrap_or_else(|e| panic!("this test runs guest code: {e}"));
    let vm = Vm::create(&host).expect("machine");
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).expect("memory");
    let ram = std::sync::Arc::new(ram);
    let range = HostRange::of_ram(&ram, GuestAddress(0), RAM).expect("range");
    vm.add_memory(0, range, Access::ReadWrite, false).expect("slot");
    let mut vcpu = std::sync::Arc::new(vm).create_vcpu(0).expect("vCPU");
    vcpu.configure(&host.supported_cpuid().expect("CPUID"), &[]).expect("CPUID");

    let layout = MemoryLayout::new(RAM, 36).expect("layout");
    let images = Images::open(file.path(), None).expect("kernel");
    let loaded = images.load(&*ram, &Options::new(&layout, "quiet")).expect("loaded");
    let mut sregs = vcpu.sregs().expect("registers");
    let regs = loaded.entry.registers(&*ram, &mut sregs).expect("entry");
    vcpu.set_entry(&regs, &sregs).expect("entry");
    vcpu.set_run_state(RunState::Running).expect("run state");

    let mut reported = Vec::new();
    loop {
        match vcpu.run().expect("KVM runs the guest") {
            Exit::Nothing => {}
            Exit::PortOut { port: REPORT, data, .. } => {
                reported.push(u32::from_le_bytes(data.try_into().expect("four bytes")));
            }
            Exit::PortOut { port: DONE, .. } => return (loaded.entry, reported),
            other => panic!("unexpected exit {other:?} after {reported:x?}"),
        }
        assert!(reported.len() < 10, "the guest does not end");
    }
}

/// A 64-bit ELF image of one segment at `LOAD`, which is the whole file, and perhaps a PVH note.
fn elf(code: &[u8], note: Option<[u32; 5]>) -> Vec<u8> {
    let mut file = vec![0; CODE as usize];
    file.extend_from_slice(code);
    let length = file.len() as u64;
    let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"\x7fELF\x02\x01\x01");
    set(16, &[2, 0, 62, 0]);
    set(24, &u64::from(LOAD + CODE).to_le_bytes());
    set(32, &64u64.to_le_bytes());
    set(54, &[56, 0, if note.is_some() { 2 } else { 1 }, 0]);
    let header = |kind: u64, offset: u64, length: u64| {
        let fields = [kind, offset, u64::from(LOAD) + offset, u64::from(LOAD) + offset, length, length, 4];
        fields.map(u64::to_le_bytes).concat()
    };
    set(64, &header(1, 0, length));
    if let Some(note) = note {
        set(120, &header(4, 0x100, 20));
        set(0x100, &note.map(u32::to_le_bytes).concat());
    }
    file
}

#[test]
fn linux_finds_its_zero_page_in_long_mode() {
    let (entry, reported) = run(&elf(LINUX_64, None));

    assert_eq!(entry, EntryState::Linux64 { rip: u64::from(LOAD + CODE), rsi: u64::from(reported[0]) });
    assert_eq!(reported[1], u32::from_le_bytes(*b"HdrS"));
}

#[test]
fn a_pvh_kernel_finds_its_start_info_in_protected_mode() {
    let note = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), LOAD + CODE];

    let (entry, reported) = run(&elf(PROTECTED_32, Some(note)));

    assert_eq!(entry, EntryState::Protected32 { eip: LOAD + CODE, eax: 0, ebx: reported[1], esi: 0 });
    assert_eq!(reported[2], 0x336e_c578);
}

#[test]
fn a_multiboot_kernel_finds_the_magic_and_its_information() {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESS_FIELDS: u32 = 1 << 16;
    let sum = 0u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESS_FIELDS);
    let header = [MAGIC, ADDRESS_FIELDS, sum, LOAD, LOAD, 0, 0, LOAD + CODE];
    let mut kernel = header.map(u32::to_le_bytes).concat();
    kernel.resize(CODE as usize, 0);
    kernel.extend_from_slice(PROTECTED_32);

    let (_, reported) = run(&kernel);

    assert_eq!(reported[0], 0x2bad_b002);
    // Memory sizes, command line, memory map, loader's name.
    assert_eq!(reported[2], 0x245);
}
