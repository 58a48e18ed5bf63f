//! Compiles the system call lists of `resources/seccomp/` to BPF, so that starting costs no parsing, and packs the
//! program's relocations, so that it costs less memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::{env, fs};

use seccompiler::{BpfMap, TargetArch, compile_from_json, sock_filter};

/// File name, and the `ThreadKind` it is for.
const KINDS: &[(&str, &str)] =
    &[("main", "Main"), ("vcpu", "Vcpu"), ("disk", "Disk"), ("console", "Console"), ("timer", "Timer"), ("nbd", "Nbd")];

fn main() {
    // DT_RELR (System V ABI, draft of 2022): the addresses that the dynamic linker corrects, as bitmaps. In the older
    // form the list is longer than the data it is about, and is resident in every process. glibc 2.36 and later.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    compile_filters();
}

fn compile_filters() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("seccomp.rs");
    let mut arms = String::new();
    for (file, kind) in KINDS {
        let path = format!("resources/seccomp/{file}.json");
        println!("cargo::rerun-if-changed={path}");
        let list = File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let map: BpfMap = compile_from_json(list, TargetArch::x86_64).unwrap_or_else(|e| panic!("{path}: {e}"));
        let map: BTreeMap<_, _> = map.into_iter().collect();
        let program = map.get(*file).unwrap_or_else(|| panic!("{path}: no filter named {file}"));
        write!(arms, "        ThreadKind::{kind} => &[").expect("writing to a string");
        for i in as_search_tree(program) {
            write!(arms, "({},{},{},{}),", i.code, i.jt, i.jf, i.k).expect("writing to a string");
        }
        arms.push_str("],\n");
    }
    let text = format!(
        "/// The compiled list: code, jump if true, jump if false, operand (struct sock_filter).\n\
         fn filter(kind: ThreadKind) -> &'static [(u16, u8, u8, u32)] {{\n    match kind {{\n{arms}    }}\n}}\n"
    );
    fs::write(out, text).expect("OUT_DIR is writable");
}

/// Classic BPF (linux/bpf_common.h): jump always, if equal, if greater or equal.
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_NOT_LESS: u16 = 0x35;

/// What seccompiler puts before the first system call: a check of the architecture, and the load of the call's number.
const HEAD: usize = 4;

/// What a system call's rules compile to. It is entered at its start and left only by a verdict, the last of which is
/// the one for no match.
struct Rules<'a> {
    number: u32,
    body: &'a [sock_filter],
}

/// The same filter as a binary search over the calls' numbers; seccompiler asks for one number after the other.
///
/// The kernel walks a filter for each number there is when a thread takes it on, and later at each call whose arguments
/// are looked at: for a vCPU that is each entry of the guest.
fn as_search_tree(program: &[sock_filter]) -> Vec<sock_filter> {
    let (head, mut rest) = program.split_at(HEAD);
    let mut calls = Vec::new();
    while let [first, into, past, tail @ ..] = rest
        && !tail.is_empty()
    {
        let shape = [(first.code, first.jt, first.jf), (into.code, 0, 0), (past.code, 0, 0)];
        assert_eq!(
            shape,
            [(JUMP_EQUAL, 0, 1), (JUMP, 0, 0), (JUMP, 0, 0)],
            "seccompiler writes filters differently now"
        );
        // The way past the rules of a call leads from one rule to the next.
        let mut end = past.k as usize;
        while tail[end].code == JUMP {
            end += 1 + tail[end].k as usize;
        }
        let (body, next) = tail.split_at(end);
        calls.push(Rules { number: first.k, body });
        rest = next;
    }
    let [default] = rest else { panic!("a filter without a verdict at its end") };
    calls.sort_by_key(|call| call.number);
    let mut tree = head.to_vec();
    search(&calls, default, &mut tree);
    tree
}

fn search(calls: &[Rules<'_>], default: &sock_filter, out: &mut Vec<sock_filter>) {
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    match calls {
        [] => out.push(default.clone()),
        [call] => {
            out.extend([step(JUMP_EQUAL, 1, 0, call.number), default.clone()]);
            out.extend(call.body.iter().cloned());
        }
        _ => {
            let (low, high) = calls.split_at(calls.len() / 2);
            let mut left = Vec::new();
            search(low, default, &mut left);
            // A conditional jump reaches only 255 steps.
            let length = u32::try_from(left.len()).expect("filters have at most 4096 steps");
            out.extend([step(JUMP_NOT_LESS, 0, 1, high[0].number), step(JUMP, 0, 0, length)]);
            out.append(&mut left);
            search(high, default, out);
        }
    }
}
