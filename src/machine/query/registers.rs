//! `info registers`: a vCPU's state in the form that people know from QEMU.

use std::fmt::Write as _;

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_segment, kvm_sregs};
use rhea_arch::kvm::{FloatView, VcpuSnapshot};

/// Of CR0 and EFER (SDM volume 3, 2.5 and 2.2.1).
const CR0_PE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;

/// Letters of RFLAGS, the highest bit first (SDM volume 1, 3.4.3).
const FLAGS: [(u64, char); 7] =
    [(1 << 10, 'D'), (1 << 11, 'O'), (1 << 7, 'S'), (1 << 6, 'Z'), (1 << 4, 'A'), (1 << 2, 'P'), (1, 'C')];

/// Types of system segments with and without IA-32e mode (SDM volume 3, table 3-2).
const LEGACY_TYPES: [&str; 16] = [
    "Reserved",
    "TSS16-avl",
    "LDT",
    "TSS16-busy",
    "CallGate16",
    "TaskGate",
    "IntGate16",
    "TrapGate16",
    "Reserved",
    "TSS32-avl",
    "Reserved",
    "TSS32-busy",
    "CallGate32",
    "Reserved",
    "IntGate32",
    "TrapGate32",
];
const LONG_TYPES: [&str; 16] = [
    "<hiword>",
    "Reserved",
    "LDT",
    "Reserved",
    "Reserved",
    "Reserved",
    "Reserved",
    "Reserved",
    "Reserved",
    "TSS64-avl",
    "Reserved",
    "TSS64-busy",
    "CallGate64",
    "Reserved",
    "IntGate64",
    "TrapGate64",
];

/// A register by the name that it has in the monitor's expressions; `pc` is where the next instruction is fetched.
pub(super) fn named(regs: &kvm_regs, sregs: &kvm_sregs, name: &str) -> Option<u64> {
    let r = regs;
    let general = [
        ("ax", r.rax),
        ("bx", r.rbx),
        ("cx", r.rcx),
        ("dx", r.rdx),
        ("si", r.rsi),
        ("di", r.rdi),
        ("bp", r.rbp),
        ("sp", r.rsp),
        ("ip", r.rip),
        ("flags", r.rflags),
    ];
    let numbered = [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    let found = |short: &str| general.iter().find(|(known, _)| *known == short).map(|(_, value)| *value);
    match name {
        "pc" => Some(sregs.cs.base.wrapping_add(r.rip)),
        "sp" | "fp" => found(if name == "sp" { "sp" } else { "bp" }),
        _ => (name.strip_prefix(['e', 'r']).and_then(found))
            .or_else(|| {
                let number: usize = name.strip_prefix('r')?.parse().ok()?;
                numbered.get(number.checked_sub(8)?).copied()
            })
            .or_else(|| of_segment(sregs, name)),
    }
}

/// `cs`, `cs.base`, `cs.limit`.
fn of_segment(sregs: &kvm_sregs, name: &str) -> Option<u64> {
    let (short, part) = name.split_once('.').map_or((name, None), |(short, part)| (short, Some(part)));
    let s = sregs;
    let segments = [("cs", &s.cs), ("ds", &s.ds), ("es", &s.es), ("ss", &s.ss), ("fs", &s.fs), ("gs", &s.gs)];
    let (_, segment) = segments.iter().find(|(known, _)| *known == short)?;
    match part {
        None => Some(segment.selector.into()),
        Some("base") => Some(segment.base),
        Some("limit") => Some(segment.limit.into()),
        Some(_) => None,
    }
}

/// What is shown.
pub(super) struct Shown<'a> {
    pub(super) regs: &'a kvm_regs,
    pub(super) sregs: &'a kvm_sregs,
    pub(super) debug: kvm_debugregs,
    pub(super) float: FloatView,
    pub(super) inhibits_interrupts: bool,
    pub(super) in_smm: bool,
    pub(super) is_halted: bool,
}

impl<'a> From<&'a VcpuSnapshot> for Shown<'a> {
    fn from(state: &'a VcpuSnapshot) -> Self {
        Self {
            regs: state.regs(),
            sregs: state.sregs(),
            debug: state.debug_registers().copied().unwrap_or_default(),
            float: state.float(),
            inhibits_interrupts: state.inhibits_interrupts(),
            in_smm: state.in_smm(),
            is_halted: state.is_halted(),
        }
    }
}

impl Shown<'_> {
    /// Executes 64-bit code: registers are then shown whole.
    fn is_64_bit(&self) -> bool {
        self.is_long() && self.sregs.cs.l != 0
    }

    fn is_long(&self) -> bool {
        self.sregs.efer & EFER_LMA != 0
    }

    /// A register as wide as the code that runs makes it.
    fn wide(&self, value: u64) -> String {
        if self.is_64_bit() { format!("{value:016x}") } else { format!("{:08x}", value as u32) }
    }

    /// Appends all lines.
    pub(super) fn write(&self, text: &mut String) {
        self.general(text);
        self.segments(text);
        let sregs = self.sregs;
        let _ = writeln!(text, "GDT=     {} {:08x}", self.wide(sregs.gdt.base), sregs.gdt.limit);
        let _ = writeln!(text, "IDT=     {} {:08x}", self.wide(sregs.idt.base), sregs.idt.limit);
        let (cr2, cr3) = (self.wide(sregs.cr2), self.wide(sregs.cr3));
        let _ = writeln!(text, "CR0={:08x} CR2={cr2} CR3={cr3} CR4={:08x}", sregs.cr0, sregs.cr4);
        for (number, value) in self.debug.db.iter().enumerate() {
            let _ = write!(text, "DR{number}={value:016x} ");
        }
        let _ = writeln!(text, "\nDR6={:016x} DR7={:016x}", self.debug.dr6, self.debug.dr7);
        let _ = writeln!(text, "EFER={:016x}", sregs.efer);
        self.float(text);
    }

    fn general(&self, text: &mut String) {
        let r = self.regs;
        let whole = self.is_64_bit();
        let first = if whole { "R" } else { "E" };
        let named = [
            [("AX", r.rax), ("BX", r.rbx), ("CX", r.rcx), ("DX", r.rdx)],
            [("SI", r.rsi), ("DI", r.rdi), ("BP", r.rbp), ("SP", r.rsp)],
        ];
        for row in named {
            let cells = row.map(|(name, value)| format!("{first}{name}={}", self.wide(value)));
            let _ = writeln!(text, "{}", cells.join(" "));
        }
        let numbered = [[r.r8, r.r9, r.r10, r.r11], [r.r12, r.r13, r.r14, r.r15]];
        for (row, values) in numbered.iter().enumerate().filter(|_| whole) {
            let cells = values.iter().enumerate();
            let cells: Vec<_> = cells.map(|(n, value)| format!("R{:<2}={value:016x}", 8 + 4 * row + n)).collect();
            let _ = writeln!(text, "{}", cells.join(" "));
        }
        let flags: String = FLAGS.iter().map(|&(bit, letter)| if r.rflags & bit != 0 { letter } else { '-' }).collect();
        let _ = writeln!(
            text,
            "{first}IP={} {first}FL={:08x} [{flags}] CPL={} II={} A20=1 SMM={} HLT={}",
            self.wide(r.rip),
            r.rflags,
            self.sregs.ss.dpl,
            u8::from(self.inhibits_interrupts),
            u8::from(self.in_smm),
            u8::from(self.is_halted)
        );
    }

    fn segments(&self, text: &mut String) {
        let s = self.sregs;
        let segments = [
            ("ES ", s.es),
            ("CS ", s.cs),
            ("SS ", s.ss),
            ("DS ", s.ds),
            ("FS ", s.fs),
            ("GS ", s.gs),
            ("LDT", s.ldt),
            ("TR ", s.tr),
        ];
        for (name, segment) in segments {
            let base = self.wide(segment.base);
            let _ =
                write!(text, "{name}={:04x} {base} {:08x} {:08x}", segment.selector, segment.limit, flags(&segment));
            if s.cr0 & CR0_PE != 0 && segment.present != 0 && segment.unusable == 0 {
                let _ = write!(text, " DPL={} {}", segment.dpl, self.kind(&segment));
            }
            text.push('\n');
        }
    }

    /// What the type field says (SDM volume 3, 3.4.5.1 and 3.5).
    fn kind(&self, segment: &kvm_segment) -> String {
        let bit = |number: u8, letter| if segment.type_ >> number & 1 != 0 { letter } else { '-' };
        let is_code = segment.type_ & 8 != 0;
        match (segment.s != 0, is_code) {
            (false, _) => {
                let names = if self.is_long() { LONG_TYPES } else { LEGACY_TYPES };
                names[usize::from(segment.type_ & 15)].to_owned()
            }
            (true, true) => {
                let width = match (segment.l, segment.db) {
                    (0, 0) => "CS16",
                    (0, _) => "CS32",
                    _ => "CS64",
                };
                format!("{width} [{}{}{}]", bit(2, 'C'), bit(1, 'R'), bit(0, 'A'))
            }
            (true, false) => {
                let width = if segment.db != 0 || self.is_long() { "DS  " } else { "DS16" };
                format!("{width} [{}{}{}]", bit(2, 'E'), bit(1, 'W'), bit(0, 'A'))
            }
        }
    }

    fn float(&self, text: &mut String) {
        let f = &self.float;
        let top = f.status >> 11 & 7;
        let _ = writeln!(
            text,
            "FCW={:04x} FSW={:04x} [ST={top}] FTW={:02x} MXCSR={:08x}",
            f.control, f.status, f.tags, f.mxcsr
        );
        // The state keeps them from the top of the stack on; shown is where they lie.
        let place = |physical: usize| (physical + 8 - usize::from(top)) % 8;
        let registers = (0..8).map(|n| (n, f.registers[place(n)]));
        let cells: Vec<_> = registers.map(|(n, (low, high))| format!("FPR{n}={low:016x} {high:04x}")).collect();
        for pair in cells.chunks(2) {
            let _ = writeln!(text, "{}", pair.join(" "));
        }
        let count = if self.is_64_bit() { 16 } else { 8 };
        let halves = |value: u128| format!("{:016x} {:016x}", value >> 64, value as u64);
        match &f.ymm_high {
            Some(high) => {
                for (n, (low, high)) in f.xmm.iter().zip(high).enumerate().take(count) {
                    let _ = writeln!(text, "YMM{n:02}={} {}", halves(*high), halves(*low));
                }
            }
            None => {
                let cells = f.xmm.iter().enumerate().take(count);
                let cells: Vec<_> = cells.map(|(n, value)| format!("XMM{n:02}={}", halves(*value))).collect();
                for pair in cells.chunks(2) {
                    let _ = writeln!(text, "{}", pair.join(" "));
                }
            }
        }
    }
}

/// Bits 8 to 23 of a descriptor's upper half, but for the limit's (SDM volume 3, figure 3-8).
fn flags(segment: &kvm_segment) -> u32 {
    if segment.unusable != 0 {
        return 0;
    }
    let bits = [
        (segment.type_ & 15, 8),
        (segment.s, 12),
        (segment.dpl & 3, 13),
        (segment.present, 15),
        (segment.avl, 20),
        (segment.l, 21),
        (segment.db, 22),
        (segment.g, 23),
    ];
    bits.iter().fold(0, |flags, &(value, place)| flags | u32::from(value) << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(selector: u16, base: u64, limit: u32, type_: u8) -> kvm_segment {
        kvm_segment { selector, base, limit, type_, s: 1, present: 1, ..Default::default() }
    }

    #[test]
    fn registers_have_the_names_that_expressions_use() {
        let regs = kvm_regs { rax: 1, r8: 8, r15: 15, rsp: 2, rip: 0xfff0, rflags: 2, ..Default::default() };
        let sregs = kvm_sregs { cs: segment(0xf000, 0xffff_0000, 0xffff, 11), ..Default::default() };
        for (name, value) in [
            ("pc", Some(0xffff_fff0)),
            ("eip", Some(0xfff0)),
            ("rip", Some(0xfff0)),
            ("eax", Some(1)),
            ("rax", Some(1)),
            ("sp", Some(2)),
            ("esp", Some(2)),
            ("r8", Some(8)),
            ("r15", Some(15)),
            ("eflags", Some(2)),
            ("cs", Some(0xf000)),
            ("cs.base", Some(0xffff_0000)),
            ("cs.limit", Some(0xffff)),
            ("r7", None),
            ("r16", None),
            ("ax", None),
            ("cs.type", None),
            ("", None),
        ] {
            assert_eq!(named(&regs, &sregs, name), value, "{name}");
        }
    }

    fn text(regs: &kvm_regs, sregs: &kvm_sregs, debug: kvm_debugregs, float: FloatView, is_halted: bool) -> String {
        let mut text = String::new();
        let shown = Shown { regs, sregs, debug, float, inhibits_interrupts: false, in_smm: false, is_halted };
        shown.write(&mut text);
        text
    }

    #[test]
    fn processor_at_reset_reads_as_in_qemu() {
        let data = segment(0, 0, 0xffff, 3);
        let sregs = kvm_sregs {
            cs: segment(0xf000, 0xffff_0000, 0xffff, 11),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: kvm_segment { s: 0, ..segment(0, 0, 0xffff, 11) },
            ldt: kvm_segment { s: 0, ..segment(0, 0, 0xffff, 2) },
            gdt: kvm_bindings::kvm_dtable { base: 0, limit: 0xffff, ..Default::default() },
            idt: kvm_bindings::kvm_dtable { base: 0, limit: 0xffff, ..Default::default() },
            cr0: 0x6000_0010,
            ..Default::default()
        };
        let regs = kvm_regs { rdx: 0x60fb1, rip: 0xfff0, rflags: 2, ..Default::default() };
        let debug = kvm_debugregs { dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() };
        let float = FloatView { control: 0x37f, mxcsr: 0x1f80, ..FloatView::default() };

        // As QEMU 7.2.22 prints it with -accel kvm -S.
        let expected = "\
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0000 00000000 0000ffff 00009300
CS =f000 ffff0000 0000ffff 00009b00
SS =0000 00000000 0000ffff 00009300
DS =0000 00000000 0000ffff 00009300
FS =0000 00000000 0000ffff 00009300
GS =0000 00000000 0000ffff 00009300
LDT=0000 00000000 0000ffff 00008200
TR =0000 00000000 0000ffff 00008b00
GDT=     00000000 0000ffff
IDT=     00000000 0000ffff
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000000
FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
FPR2=0000000000000000 0000 FPR3=0000000000000000 0000
FPR4=0000000000000000 0000 FPR5=0000000000000000 0000
FPR6=0000000000000000 0000 FPR7=0000000000000000 0000
XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 0000000000000000
XMM02=0000000000000000 0000000000000000 XMM03=0000000000000000 0000000000000000
XMM04=0000000000000000 0000000000000000 XMM05=0000000000000000 0000000000000000
XMM06=0000000000000000 0000000000000000 XMM07=0000000000000000 0000000000000000
";
        assert_eq!(text(&regs, &sregs, debug, float, false), expected);
    }

    #[test]
    fn processor_in_long_mode_with_avx_reads_as_in_qemu() {
        let flat = kvm_segment { db: 1, g: 1, ..segment(0x10, 0, 0xffff_ffff, 3) };
        let sregs = kvm_sregs {
            cs: kvm_segment { db: 0, l: 1, ..kvm_segment { g: 1, ..segment(8, 0, 0xffff_ffff, 11) } },
            ds: flat,
            es: flat,
            ss: segment(0, 0, 0xffff, 3),
            fs: segment(0x18, 0x7000, 0xffff, 3),
            gs: kvm_segment { unusable: 1, ..segment(0, 0, 0xffff, 3) },
            tr: kvm_segment { s: 0, ..segment(0x28, 0x8000, 0x67, 9) },
            ldt: kvm_segment { s: 0, ..segment(0, 0, 0xffff, 2) },
            gdt: kvm_bindings::kvm_dtable { base: 0x7d28, limit: 0x37, ..Default::default() },
            idt: kvm_bindings::kvm_dtable { base: 0, limit: 0x3ff, ..Default::default() },
            cr0: 0x8001_0013,
            cr3: 0x1000,
            cr4: 0x406a0,
            efer: 0xd00,
            ..Default::default()
        };
        let regs = kvm_regs { rax: 0xffff_ffff_f000_0000, rip: 0x7d21, rflags: 0x847, r8: 0x88, ..Default::default() };
        let mut float = FloatView { control: 0x37f, status: 0x3000, tags: 0xc0, mxcsr: 0x1f80, ..FloatView::default() };
        float.registers[0] = (0xc90f_daa2_2168_c235, 0x4000);
        float.registers[1] = (1 << 63, 0x3fff);
        float.xmm[9] = 0x1122;
        float.ymm_high = Some([3; 16]);

        let printed = text(&regs, &sregs, kvm_debugregs::default(), float, true);

        // Lines of QEMU 7.2.22 with -accel tcg -cpu max in such a state.
        for line in [
            "RAX=fffffffff0000000 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000",
            "R8 =0000000000000088 R9 =0000000000000000 R10=0000000000000000 R11=0000000000000000",
            "RIP=0000000000007d21 RFL=00000847 [-O-Z-PC] CPL=0 II=0 A20=1 SMM=0 HLT=1",
            "CS =0008 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]",
            "DS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]",
            "FS =0018 0000000000007000 0000ffff 00009300 DPL=0 DS   [-WA]",
            "GS =0000 0000000000000000 0000ffff 00000000",
            "LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT",
            "TR =0028 0000000000008000 00000067 00008900 DPL=0 TSS64-avl",
            "GDT=     0000000000007d28 00000037",
            "CR0=80010013 CR2=0000000000000000 CR3=0000000000001000 CR4=000406a0",
            "EFER=0000000000000d00",
            "FCW=037f FSW=3000 [ST=6] FTW=c0 MXCSR=00001f80",
            "FPR6=c90fdaa22168c235 4000 FPR7=8000000000000000 3fff",
            "YMM09=0000000000000000 0000000000000003 0000000000000000 0000000000001122",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
        }
        assert!(!printed.contains("XMM"), "{printed}");
    }

    #[test]
    fn segments_of_32_bit_code_are_told_apart() {
        let sregs = kvm_sregs {
            cs: kvm_segment { db: 1, g: 1, ..segment(8, 0, 0xffff_ffff, 14) },
            ds: segment(0x10, 0, 0xffff, 7),
            tr: kvm_segment { s: 0, ..segment(0, 0, 0xffff, 11) },
            cr0: 0x11,
            ..Default::default()
        };

        let printed = text(&kvm_regs::default(), &sregs, kvm_debugregs::default(), FloatView::default(), false);

        assert!(printed.contains("CS =0008 00000000 ffffffff 00c09e00 DPL=0 CS32 [CR-]\n"), "{printed}");
        assert!(printed.contains("DS =0010 00000000 0000ffff 00009700 DPL=0 DS16 [EWA]\n"), "{printed}");
        assert!(printed.contains("TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy\n"), "{printed}");
    }
}
