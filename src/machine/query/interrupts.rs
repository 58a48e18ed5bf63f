//! `info irq`, `info pic` and `info lapic`: interrupt controllers in the form that people know from QEMU.

use std::fmt::Write as _;

use rhea_arch::kvm::{IoapicView, IrqchipSnapshot, PINS, PicView};

/// Inputs of the PIC pair, which are the first of the I/O APIC, too.
const PIC_INPUTS: usize = 16;

/// The version register of KVM's I/O APIC.
const IOAPIC_VERSION: u8 = 0x11;

/// Registers of the local APIC (SDM volume 3, table 11-1), and bits of IA32_APIC_BASE (11.4.3 and 11.12.1).
const TPR: usize = 0x80;
const APR: usize = 0x90;
const PPR: usize = 0xa0;
const LDR: usize = 0xd0;
const DFR: usize = 0xe0;
const SPIV: usize = 0xf0;
const ISR: usize = 0x100;
const TMR: usize = 0x180;
const IRR: usize = 0x200;
const ESR: usize = 0x280;
const ICR: usize = 0x300;
const ICR2: usize = 0x310;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;
const BASE_X2APIC: u64 = 1 << 10;

/// `info irq`: how often each line rose. Devices that signal by message or descriptor have none.
pub(super) fn counts(rises: &[u64; PINS]) -> String {
    let mut text = String::new();
    for (chip, inputs) in [("kvm-ioapic", PINS), ("kvm-i8259", PIC_INPUTS)] {
        let _ = writeln!(text, "IRQ statistics for {chip}:");
        for (pin, count) in rises.iter().enumerate().take(inputs).filter(|(_, count)| **count > 0) {
            let _ = writeln!(text, "{pin:2}: {count}");
        }
    }
    text
}

/// `info pic`.
pub(super) fn controllers(chips: &IrqchipSnapshot) -> String {
    let mut text = String::new();
    ioapic(&mut text, &chips.ioapic());
    for (number, pic) in chips.pics().iter().enumerate().rev() {
        pic_line(&mut text, number, pic);
    }
    text
}

fn ioapic(text: &mut String, chip: &IoapicView) {
    let _ = write!(text, "ioapic0: ver={IOAPIC_VERSION:#04x} id={:#04x} sel={:#04x}", chip.id, chip.select);
    match chip.select.checked_sub(0x10) {
        Some(half) => writeln!(text, " (redir[{}])", half >> 1),
        None => writeln!(text),
    }
    .unwrap_or(());
    for (pin, entry) in chip.pins.iter().enumerate() {
        let _ = writeln!(text, "  pin {pin:<2} {}", redirection(*entry));
    }
    let remote = (0..PINS).filter(|pin| chip.pins[*pin] >> 14 & 1 != 0).fold(0, |pins, pin| pins | 1 << pin);
    for (name, pins) in [("  IRR", chip.irr), ("  Remote IRR", remote)] {
        let _ = write!(text, "{name:<10} ");
        for pin in (0..32).filter(|pin| pins >> pin & 1 != 0) {
            let _ = write!(text, "{pin:<2} ");
        }
        text.push_str(if pins == 0 { "(none)\n" } else { "\n" });
    }
}

/// An entry of the redirection table (82093AA, 3.2.4).
fn redirection(entry: u64) -> String {
    const MODES: [&str; 8] = ["fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT"];
    let bit = |number: u32| entry >> number & 1 != 0;
    format!(
        "{entry:#018x} dest={:x} vec={:<3} {} {:<5} {:<6} {:<6} {}",
        entry >> 56,
        entry & 0xff,
        if bit(13) { "active-lo" } else { "active-hi" },
        if bit(15) { "level" } else { "edge" },
        if bit(16) { "masked" } else { "" },
        MODES[(entry >> 8 & 7) as usize],
        if bit(11) { "logical" } else { "physical" }
    )
}

fn pic_line(text: &mut String, number: usize, pic: &PicView) {
    let _ = writeln!(
        text,
        "pic{number}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x} rr_sel={} elcr={:02x} fnm={}",
        pic.irr, pic.imr, pic.isr, pic.priority, pic.base, pic.reads_isr, pic.elcr, pic.fully_nested
    );
}

/// `info lapic` of vCPU `index`; `register` reads one of its APIC, `base` is IA32_APIC_BASE.
pub(super) fn local(index: u32, base: u64, register: impl Fn(usize) -> u32) -> String {
    let mut text = format!("dumping local APIC state for CPU {index:<2}\n\n");
    let vectors =
        [("LVT0", 0x350), ("LVT1", 0x360), ("LVTPC", 0x340), ("LVTERR", 0x370), ("LVTTHMR", 0x330), ("LVTT", 0x320)];
    for (name, offset) in vectors {
        let _ = writeln!(text, "{name}\t {}", local_vector(register(offset), name == "LVTT"));
    }
    let divide = register(DIVIDE);
    // Bits 0, 1 and 3 count from two on; all of them set is one (SDM volume 3, figure 11-10).
    let shift = ((divide & 3 | divide >> 1 & 4) + 1) & 7;
    let _ = writeln!(
        text,
        "Timer\t DCR={divide:#x} (divide by {}) initial_count = {} current_count = {}",
        1 << shift,
        register(INITIAL_COUNT),
        register(CURRENT_COUNT)
    );
    let spurious = register(SPIV);
    let _ = writeln!(
        text,
        "SPIV\t {spurious:#010x} APIC {}, focus={}, spurious vec {}",
        if spurious & 0x100 != 0 { "enabled" } else { "disabled" },
        if spurious & 0x200 != 0 { "on" } else { "off" },
        spurious & 0xff
    );
    command(&mut text, base & BASE_X2APIC != 0, register(ICR), register(ICR2));
    let _ = writeln!(text, "ESR\t {:#010x}", register(ESR));
    for (name, from) in [("ISR", ISR), ("IRR", IRR)] {
        waiting(&mut text, name, from, &register);
    }
    let _ = writeln!(
        text,
        "\nAPR {:#04x} TPR {:#04x} DFR {:#04x} LDR {:#04x} PPR {:#04x}",
        register(APR),
        register(TPR),
        register(DFR) >> 28,
        register(LDR) >> 24,
        register(PPR)
    );
    text
}

/// An entry of the local vector table (SDM volume 3, 11.5.1).
fn local_vector(entry: u32, is_timer: bool) -> String {
    const MODES: [&str; 8] = ["Fixed", "LowPri", "SMI", "...", "NMI", "INIT", "...", "ExtINT"];
    let bit = |number: u32| entry >> number & 1 != 0;
    let timer = match (is_timer, entry >> 17 & 3) {
        (false, _) => "",
        (true, 0) => "one-shot",
        (true, 1 | 3) => "periodic",
        (true, _) => "tsc-deadline",
    };
    let mode = MODES[(entry >> 8 & 7) as usize];
    let vector = if mode == "NMI" { String::new() } else { format!(" (vec {})", entry & 0xff) };
    format!(
        "{entry:#010x} {} {:<5} {:<6} {:<7} {timer:<12} {mode:<6}{vector}",
        if bit(13) { "active-lo" } else { "active-hi" },
        if bit(15) { "level" } else { "edge" },
        if bit(16) { "masked" } else { "" },
        if bit(12) { "pending" } else { "" }
    )
}

/// The interrupt command register (SDM volume 3, 11.6.1).
fn command(text: &mut String, is_x2apic: bool, low: u32, high: u32) {
    const SHORTHANDS: [&str; 4] = ["no-shorthand", "self", "all-self", "all"];
    let bit = |number: u32| low >> number & 1 != 0;
    let shorthand = low >> 18 & 3;
    let _ = writeln!(
        text,
        "ICR\t {low:#010x} {} {} {} {}",
        if bit(11) { "logical" } else { "physical" },
        if bit(15) { "level" } else { "edge" },
        if bit(14) { "assert" } else { "de-assert" },
        SHORTHANDS[shorthand as usize]
    );
    let _ = write!(text, "ICR2\t {high:#010x}");
    if shorthand == 0 {
        let (to, kind) = if is_x2apic { (high, "X2APIC") } else { (high >> 24, "APIC") };
        let _ = match bit(11) {
            true => write!(text, " mask {to:08x} ({kind} ID)"),
            false => write!(text, " cpu {to} ({kind} ID)"),
        };
    }
    text.push('\n');
}

/// The vectors set in one of the registers of 256 bits, with a word on those that are level-triggered.
fn waiting(text: &mut String, name: &str, from: usize, register: impl Fn(usize) -> u32) {
    let is_set = |from: usize, vector: usize| register(from + vector / 32 * 16) >> (vector % 32) & 1 != 0;
    let _ = write!(text, "{name}\t ");
    let mut none = true;
    for vector in (0..256).filter(|vector| is_set(from, *vector)) {
        let _ = write!(text, "{vector}{} ", if is_set(TMR, vector) { "(level)" } else { "" });
        none = false;
    }
    text.push_str(if none { "(none)\n" } else { "\n" });
}

#[cfg(test)]
mod tests {
    use super::*;

    // All expected lines were printed by QEMU 7.2.22 for a guest that had set these values.

    #[test]
    fn entries_of_the_redirection_table_read_as_in_qemu() {
        let lines = [
            (0x10000, "0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical"),
            (0x0100_0000_0000_0132, "0x0100000000000132 dest=1 vec=50  active-hi edge         lowest physical"),
            (0x0300_0000_0000_a933, "0x030000000000a933 dest=3 vec=51  active-lo level        lowest logical"),
            (0x737, "0x0000000000000737 dest=0 vec=55  active-hi edge         extINT physical"),
            (0x339, "0x0000000000000339 dest=0 vec=57  active-hi edge         ...    physical"),
        ];
        for (entry, line) in lines {
            assert_eq!(redirection(entry), line);
        }
    }

    #[test]
    fn io_apic_tells_the_register_it_shows_and_what_waits() {
        let mut pins = [0x10000; PINS];
        pins[3] = 0xc000;
        let mut text = String::new();

        ioapic(&mut text, &IoapicView { select: 0x23, id: 0, irr: 1 << 4 | 1 << 10, pins });

        assert!(text.starts_with("ioapic0: ver=0x11 id=0x00 sel=0x23 (redir[9])\n  pin 0  0x"), "{text}");
        assert!(text.ends_with("  IRR      4  10 \n  Remote IRR 3  \n"), "{text}");
    }

    #[test]
    fn local_apic_reads_as_in_qemu() {
        let set = [
            (0x350, 0x8700),
            (0x360, 0x233),
            (0x340, 0xffff),
            (0x370, 0x10000),
            (0x330, 0x10000),
            (0x320, 0x200fe),
            (DIVIDE, 3),
            (INITIAL_COUNT, 65536),
            (CURRENT_COUNT, 46456),
            (SPIV, 0x1ff),
            (ICR, 0x842),
            (ICR2, 0x0100_0000),
            (IRR + 0x20, 1 << 3),
            (TMR + 0x20, 1 << 3),
            (IRR + 0x70, 1 << 30),
            (TPR, 0x20),
            (PPR, 0x20),
            (DFR, 0xffff_ffff),
            (LDR, 0x0100_0000),
        ];

        let text = local(0, 0, |at| set.iter().find(|(known, _)| *known == at).map_or(0, |(_, value)| *value));

        let expected = "\
dumping local APIC state for CPU 0 

LVT0\t 0x00008700 active-hi level                             ExtINT (vec 0)
LVT1\t 0x00000233 active-hi edge                              SMI    (vec 51)
LVTPC\t 0x0000ffff active-lo level        pending              ExtINT (vec 255)
LVTERR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
LVTTHMR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
LVTT\t 0x000200fe active-hi edge                 periodic     Fixed  (vec 254)
Timer\t DCR=0x3 (divide by 16) initial_count = 65536 current_count = 46456
SPIV\t 0x000001ff APIC enabled, focus=off, spurious vec 255
ICR\t 0x00000842 logical edge de-assert no-shorthand
ICR2\t 0x01000000 mask 00000001 (APIC ID)
ESR\t 0x00000000
ISR\t (none)
IRR\t 67(level) 254 

APR 0x00 TPR 0x20 DFR 0x0f LDR 0x01 PPR 0x20
";
        assert_eq!(text, expected);
    }

    #[test]
    fn commands_are_told_apart_as_in_qemu() {
        let line = |low, high| {
            let mut text = String::new();
            command(&mut text, false, low, high);
            text
        };

        let physical = "ICR\t 0x000040e1 physical edge assert no-shorthand\nICR2\t 0x02000000 cpu 2 (APIC ID)\n";
        assert_eq!(line(0x40e1, 0x0200_0000), physical);
        assert_eq!(line(0x48043, 0), "ICR\t 0x00048043 physical level de-assert self\nICR2\t 0x00000000\n");
        assert_eq!(line(0xc4610, 0), "ICR\t 0x000c4610 physical edge assert all\nICR2\t 0x00000000\n");
    }

    #[test]
    fn lines_that_never_rose_are_not_counted() {
        let mut rises = [0; PINS];
        (rises[4], rises[20]) = (1, 7);

        let expected = "IRQ statistics for kvm-ioapic:\n 4: 1\n20: 7\nIRQ statistics for kvm-i8259:\n 4: 1\n";
        assert_eq!(counts(&rises), expected);
    }

    #[test]
    fn non_maskable_entries_have_no_vector() {
        assert_eq!(local_vector(0x8400, false), "0x00008400 active-hi level                             NMI   ");
    }
}
