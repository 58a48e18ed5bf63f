//! Compiles the system call lists of `resources/seccomp/` to BPF, so that starting costs no parsing, and packs the
//! program's relocations, so that it costs less memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::{env, fs};

use seccompiler::{BpfMap, TargetArch, compile_from_json};

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
        for i in program {
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
