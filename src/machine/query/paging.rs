//! `info mem` and `info tlb`: the page tables of a vCPU, walked.
//!
//! Page tables are the guest's own, so they may point at each other and at themselves: the walk ends after so many tables
//! and lines, and says so.

use std::fmt::Write as _;

use kvm_bindings::kvm_sregs;

/// Tables that are read, and lines that are written, at most: a guest that maps 64 GiB in small pages needs half of it.
const MOST_TABLES: u32 = 1 << 16;
const MOST_LINES: u32 = 1 << 16;

/// Bits of an entry (SDM volume 3, tables 4-15 to 4-20).
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of an entry of eight bytes.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Of CR0, CR4 and EFER (SDM volume 3, 2.5 and 2.2.1).
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

/// The form of the tables (SDM volume 3, 4.1.1), from the registers that choose it.
struct Form {
    /// Bytes in an entry.
    entry: u64,
    /// Bits of a linear address that each level looks up, the uppermost first.
    levels: &'static [u32],
    /// Levels, counted from the last, at which an entry may be a page.
    large: usize,
    /// Entries of the uppermost level have no rights of their own.
    bare_top: bool,
    /// Where the uppermost table lies.
    root: u64,
    /// Bits of a linear address.
    width: u32,
}

impl Form {
    /// Nothing without paging.
    fn of(sregs: &kvm_sregs) -> Option<Self> {
        if sregs.cr0 & CR0_PG == 0 {
            return None;
        }
        let four = Self { entry: 8, levels: &[9; 4], large: 2, bare_top: false, root: sregs.cr3 & ADDRESS, width: 48 };
        Some(if sregs.efer & EFER_LMA != 0 && sregs.cr4 & CR4_LA57 != 0 {
            Self { levels: &[9; 5], width: 57, ..four }
        } else if sregs.efer & EFER_LMA != 0 {
            four
        } else if sregs.cr4 & CR4_PAE != 0 {
            Self { levels: &[2, 9, 9], large: 1, bare_top: true, root: sregs.cr3 & 0xffff_ffe0, width: 32, ..four }
        } else {
            let large = usize::from(sregs.cr4 & CR4_PSE != 0);
            Self { entry: 4, levels: &[10, 10], large, root: sregs.cr3 & 0xffff_f000, width: 32, ..four }
        })
    }

    /// The address as the processor writes it: the highest bit repeated (SDM volume 1, 3.3.7.1).
    fn canonical(&self, address: u64) -> u64 {
        let is_upper = self.entry == 8 && self.width > 32 && address >> (self.width - 1) & 1 != 0;
        if is_upper { address | u64::MAX << self.width } else { address }
    }
}

/// A page or what stands for none.
struct Page {
    linear: u64,
    /// Bytes.
    size: u64,
    entry: u64,
    /// Rights of the entry, as far as those above it grant them.
    rights: u64,
}

/// Walks all tables.
struct Walk<'a> {
    form: Form,
    read: &'a dyn Fn(u64, &mut [u8]) -> bool,
    tables: u32,
    visit: &'a mut dyn FnMut(&Form, &Page) -> bool,
}

impl Walk<'_> {
    /// Visits pages of the table at `address`, which is at `level`, in order; false when told to stop.
    fn table(&mut self, address: u64, level: usize, linear: u64, above: u64) -> bool {
        if self.tables == 0 {
            return false;
        }
        self.tables -= 1;
        let bits = self.form.levels[level];
        let below: u32 = self.form.levels[level + 1..].iter().sum::<u32>() + 12;
        let size = self.form.entry;
        let mut bytes = vec![0; (size << bits) as usize];
        if !(self.read)(address, &mut bytes) {
            return true;
        }
        let from_last = self.form.levels.len() - 1 - level;
        for (index, bytes) in (0u64..).zip(bytes.chunks(size as usize)) {
            let entry = bytes.iter().rev().fold(0, |entry, byte| entry << 8 | u64::from(*byte));
            if entry & PRESENT == 0 {
                continue;
            }
            let linear = linear | index << below;
            let granted = if level == 0 && self.form.bare_top { USER | WRITE | PRESENT } else { entry };
            let rights = above & granted & (USER | WRITE | PRESENT);
            let is_page = from_last == 0 || (from_last <= self.form.large && entry & LARGE != 0);
            let goes_on = if is_page {
                // In the last level bit 7 chooses a memory type and is no size.
                let entry = if from_last == 0 { entry & !LARGE } else { entry };
                (self.visit)(&self.form, &Page { linear, size: 1 << below, entry, rights })
            } else {
                self.table(entry & ADDRESS, level + 1, linear, rights)
            };
            if !goes_on {
                return false;
            }
        }
        true
    }
}

/// Walks the tables that `sregs` point to; false when it ended early.
fn walk(form: Form, read: &dyn Fn(u64, &mut [u8]) -> bool, mut visit: impl FnMut(&Form, &Page) -> bool) -> bool {
    let root = form.root;
    Walk { form, read, tables: MOST_TABLES, visit: &mut visit }.table(root, 0, 0, USER | WRITE | PRESENT)
}

const OFF: &str = "PG disabled\n";
const CUT: &str = "... and more: the walk ends here\n";

/// `info mem`: ranges of linear addresses with their rights. `read` fills a buffer from guest-physical memory.
pub(super) fn ranges(sregs: &kvm_sregs, read: &dyn Fn(u64, &mut [u8]) -> bool) -> String {
    let Some(form) = Form::of(sregs) else { return OFF.to_owned() };
    let mut text = String::new();
    let mut lines = 0;
    let mut open: Option<(u64, u64, u64)> = None;
    let mut close = |text: &mut String, form: &Form, (start, end, rights): (u64, u64, u64)| {
        let letter = |bit, letter| if rights & bit != 0 { letter } else { '-' };
        let (start, end) = (form.canonical(start), form.canonical(end));
        let size = end.wrapping_sub(start);
        let (user, read, write) = (letter(USER, 'u'), letter(PRESENT, 'r'), letter(WRITE, 'w'));
        let _ = writeln!(text, "{start:016x}-{end:016x} {size:016x} {user}{read}{write}");
        lines += 1;
        lines < MOST_LINES
    };
    let mut shape = None;
    let whole = walk(form, read, |form, page| {
        let end = page.linear + page.size;
        shape.get_or_insert(Form { ..*form });
        match &mut open {
            Some((_, last, rights)) if *last == page.linear && *rights == page.rights => {
                *last = end;
                true
            }
            open => match open.replace((page.linear, end, page.rights)) {
                Some(before) => close(&mut text, form, before),
                None => true,
            },
        }
    });
    if let Some((range, form)) = open.zip(shape) {
        close(&mut text, &form, range);
    }
    if !whole {
        text.push_str(CUT);
    }
    text
}

/// `info tlb`: every page, where it leads, and its entry's bits.
pub(super) fn pages(sregs: &kvm_sregs, read: &dyn Fn(u64, &mut [u8]) -> bool) -> String {
    const BITS: [(u64, char); 9] = [
        (NO_EXECUTE, 'X'),
        (1 << 8, 'G'),
        (LARGE, 'P'),
        (1 << 6, 'D'),
        (1 << 5, 'A'),
        (1 << 4, 'C'),
        (1 << 3, 'T'),
        (USER, 'U'),
        (WRITE, 'W'),
    ];
    let Some(form) = Form::of(sregs) else { return OFF.to_owned() };
    let mut text = String::new();
    let mut lines = 0;
    let whole = walk(form, read, |form, page| {
        let bits: String = BITS.iter().map(|&(bit, letter)| if page.entry & bit != 0 { letter } else { '-' }).collect();
        let (linear, physical) = (form.canonical(page.linear), page.entry & ADDRESS & !(page.size - 1));
        let _ = writeln!(text, "{linear:016x}: {physical:016x} {bits}");
        lines += 1;
        lines < MOST_LINES
    });
    if !whole {
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guest memory with these numbers of eight bytes in it.
    fn memory(entries: &[(usize, u64)]) -> Vec<u8> {
        let mut memory = vec![0; 0x8000];
        for &(at, entry) in entries {
            memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        memory
    }

    fn reader(memory: &[u8]) -> impl Fn(u64, &mut [u8]) -> bool {
        move |at, into| {
            let part = usize::try_from(at).ok().and_then(|at| memory.get(at..at + into.len()));
            part.is_some_and(|part| {
                into.copy_from_slice(part);
                true
            })
        }
    }

    fn long_mode() -> kvm_sregs {
        kvm_sregs { cr0: CR0_PG | 1, cr3: 0x1000, cr4: CR4_PAE, efer: EFER_LMA, ..Default::default() }
    }

    /// The tables of a program that was run under QEMU 7.2.22, which printed what the next two tests expect.
    fn program() -> Vec<u8> {
        memory(&[
            (0x1000, 0x2007),
            (0x1ff8, 0x2003),
            (0x2000, 0x3007),
            (0x2008, 0x4000_0083),
            (0x2ff0, 0x3003),
            (0x3000, 0xe7),
            (0x3008, 0x0020_00e3),
            (0x3010, 0x0040_0081),
            (0x3018, 0x8000_0000_0060_01e3),
        ])
    }

    #[test]
    fn ranges_read_as_in_qemu() {
        let memory = program();

        let text = ranges(&long_mode(), &reader(&memory));

        let expected = "\
0000000000000000-0000000000200000 0000000000200000 urw
0000000000200000-0000000000400000 0000000000200000 -rw
0000000000400000-0000000000600000 0000000000200000 -r-
0000000000600000-0000000000800000 0000000000200000 -rw
0000000040000000-0000000080000000 0000000040000000 -rw
0000007f80000000-0000007f80400000 0000000000400000 -rw
0000007f80400000-0000007f80600000 0000000000200000 -r-
0000007f80600000-0000007f80800000 0000000000200000 -rw
ffffff8000000000-ffffff8000400000 0000000000400000 -rw
ffffff8000400000-ffffff8000600000 0000000000200000 -r-
ffffff8000600000-ffffff8000800000 0000000000200000 -rw
ffffff8040000000-ffffff8080000000 0000000040000000 -rw
ffffffff80000000-ffffffff80400000 0000000000400000 -rw
ffffffff80400000-ffffffff80600000 0000000000200000 -r-
ffffffff80600000-ffffffff80800000 0000000000200000 -rw
";
        assert_eq!(text, expected);
    }

    #[test]
    fn pages_read_as_in_qemu() {
        let memory = program();

        let text = pages(&long_mode(), &reader(&memory));

        let first = "\
0000000000000000: 0000000000000000 --PDA--UW
0000000000200000: 0000000000200000 --PDA---W
0000000000400000: 0000000000400000 --P------
0000000000600000: 0000000000600000 XGPDA---W
0000000040000000: 0000000040000000 --P-----W
0000007f80000000: 0000000000000000 --PDA--UW
";
        assert!(text.starts_with(first), "{text}");
        assert_eq!(text.lines().count(), 18);
        assert!(text.ends_with("ffffffff80600000: 0000000000600000 XGPDA---W\n"), "{text}");
    }

    #[test]
    fn tables_of_32_bits_are_walked() {
        let mut memory = memory(&[(0x1000, 0x0000_2007_0000_2007), (0x2000, 0x0000_5087_0000_4005)]);
        memory[0x1008..0x100c].copy_from_slice(&0x0080_0083u32.to_le_bytes());
        let sregs = kvm_sregs { cr0: CR0_PG | 1, cr3: 0x1000, cr4: CR4_PSE, ..Default::default() };

        assert_eq!(
            pages(&sregs, &reader(&memory)),
            "0000000000000000: 0000000000004000 -------U-\n0000000000001000: 0000000000005000 -------UW\n\
             0000000000400000: 0000000000004000 -------U-\n0000000000401000: 0000000000005000 -------UW\n\
             0000000000800000: 0000000000800000 --P-----W\n"
        );
    }

    #[test]
    fn tables_that_point_at_themselves_end() {
        let all: Vec<_> = (0..512).map(|n| (0x1000 + 8 * n, 0x1003)).collect();
        let memory = memory(&all);

        let (ranges, pages) = (ranges(&long_mode(), &reader(&memory)), pages(&long_mode(), &reader(&memory)));

        assert!(ranges.ends_with(CUT) && ranges.len() < 200, "{}", ranges.len());
        assert!(pages.ends_with(CUT));
        assert_eq!(pages.lines().count(), MOST_LINES as usize + 1);
    }

    #[test]
    fn nothing_is_walked_without_paging() {
        assert_eq!(ranges(&kvm_sregs::default(), &|_, _| panic!("read")), OFF);
        assert_eq!(pages(&kvm_sregs::default(), &|_, _| panic!("read")), OFF);
    }
}
