//! A forbidden call ends the process, for each kind of thread. The process is this test program, started again.

use std::fs::File;
use std::process::{Command, Output};

use seccompiler::{TargetArch, compile_from_json};

use super::*;

const CHILD: &str = "RHEA_TEST_SECCOMP_KIND";

const KINDS: &[(&str, ThreadKind)] = &[
    ("main", ThreadKind::Main),
    ("vcpu", ThreadKind::Vcpu),
    ("disk", ThreadKind::Disk),
    ("console", ThreadKind::Console),
    ("timer", ThreadKind::Timer),
    ("nbd", ThreadKind::Nbd),
];

/// Runs [`child`] in a process of its own.
fn forbidden_call_in(kind: &str) -> Output {
    start("seccomp::tests::child", kind)
}

fn start(test: &str, kind: &str) -> Output {
    let program = std::env::current_exe().expect("the test program has a path");
    Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, kind)
        .output()
        .expect("the test program starts")
}

/// Not a test by itself: what [`forbidden_call_in`] starts. Without the variable it has nothing to do.
#[test]
fn child() {
    let Ok(wanted) = std::env::var(CHILD) else { return };
    let kind = KINDS.iter().find(|k| k.0 == wanted).expect("a kind").1;
    enable().expect("SIGSYS can be handled");
    let thread = thread::spawn(kind, &format!("probe-{wanted}"), || {
        // personality(2) is in no list, and harmless should it happen all the same.
        #[expect(unsafe_code, reason = "a bare system call")]
        // SAFETY: reads the execution domain, touches no memory.
        unsafe {
            libc::syscall(libc::SYS_personality, 0xffff_ffff_u64)
        }
    });
    let _ = thread.expect("a thread starts").join();
}

/// Not a test by itself, like [`child`].
#[test]
fn child_that_gives_memory_back() {
    let Ok(wanted) = std::env::var(CHILD) else { return };
    let kind = KINDS.iter().find(|k| k.0 == wanted).expect("a kind").1;
    enable().expect("SIGSYS can be handled");
    let thread = thread::spawn(kind, "saver", || {
        // Below the size that gets mappings of its own, and together more than a heap keeps for later.
        let blocks: Vec<Vec<u8>> = (0..64).map(|n| vec![n; 100 << 10]).collect();
        std::hint::black_box(&blocks);
        blocks.into_iter().rev().for_each(drop);
    });
    thread.expect("a thread starts").join().expect("it ends");
}

#[test]
fn memory_can_be_given_back_on_every_thread() {
    for (kind, _) in KINDS {
        let output = start("seccomp::tests::child_that_gives_memory_back", kind);

        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn assert_ends_with_a_line(kind: &str) {
    let output = forbidden_call_in(kind);

    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(EXIT_FORBIDDEN), "{text}");
    let line = format!("rhea: thread \"probe-{kind}\" made the forbidden system call personality (135)");
    assert!(text.contains(&line), "{text}");
}

#[test]
fn forbidden_call_in_main_thread_ends_process_with_a_line() {
    assert_ends_with_a_line("main");
}

#[test]
fn forbidden_call_in_vcpu_thread_ends_process_with_a_line() {
    assert_ends_with_a_line("vcpu");
}

#[test]
fn forbidden_call_in_disk_thread_ends_process_with_a_line() {
    assert_ends_with_a_line("disk");
}

#[test]
fn forbidden_call_in_console_thread_ends_process_with_a_line() {
    assert_ends_with_a_line("console");
}

#[test]
fn forbidden_call_in_timer_thread_ends_process_with_a_line() {
    assert_ends_with_a_line("timer");
}

#[test]
fn forbidden_call_in_nbd_thread_ends_process_with_a_line() {
    assert_ends_with_a_line("nbd");
}

#[test]
fn line_never_overflows() {
    let mut line = Line::default();

    line.push(&[b'x'; 500]);
    line.push_number(i32::MAX);

    assert_eq!(line.text().len(), 192);
}

/// Numbers beyond the last that Linux has, and the bit that marks calls of x32.
const NUMBERS: std::ops::Range<u32> = 0..600;
const X32: u32 = 1 << 30;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// Runs a filter as the kernel does (Documentation/userspace-api/seccomp_filter.rst); counts its steps.
fn verdict(program: &[sock_filter], data: &[u32; 16]) -> (u32, usize) {
    let (mut at, mut loaded, mut steps) = (0, 0, 0);
    loop {
        let step = &program[at];
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        steps += 1;
        at += 1;
        match step.code {
            0x20 => loaded = data[step.k as usize / 4],
            0x54 => loaded &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(loaded == step.k),
            0x25 => at += jump(loaded > step.k),
            0x35 => at += jump(loaded >= step.k),
            0x06 => return (step.k, steps),
            code => panic!("code {code:#x} at {}", at - 1),
        }
    }
}

/// The numbers that a filter compares with: among them every argument that a list names.
fn operands(program: &[sock_filter]) -> Vec<u32> {
    program.iter().filter(|step| matches!(step.code, 0x15 | 0x25 | 0x35)).map(|step| step.k).collect()
}

#[test]
fn search_tree_decides_as_the_list_does_in_few_steps() {
    for (name, kind) in KINDS {
        let list = File::open(format!("resources/seccomp/{name}.json")).unwrap();
        let list = compile_from_json(list, TargetArch::x86_64).unwrap().remove(*name).unwrap();
        let tree: Vec<_> = filter(*kind).iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect();
        let mut most = 0;

        for number in NUMBERS.chain([X32, X32 + 1, u32::MAX]) {
            for argument in operands(&list) {
                let mut data = [0; 16];
                (data[0], data[1], data[6]) = (number, X86_64, argument);
                let (said, steps) = verdict(&tree, &data);

                assert_eq!(said, verdict(&list, &data).0, "{name}: call {number} with {argument:#x}");
                most = most.max(if number == libc::SYS_ioctl as u32 { 0 } else { steps });
            }
        }
        let other = [0, I386, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(verdict(&tree, &other).0, verdict(&list, &other).0, "{name}: another architecture");
        assert!(most <= 30, "{name}: {most} steps");
    }
}
