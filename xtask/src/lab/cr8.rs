//! A `kvm-amd` that intercepts every write of CR8.
//!
//! KVM lets a guest write its task priority (CR8) without an exit while no interrupt waits for it to fall. QEMU's
//! emulation of SVM ends itself when that happens while KVM waits for an interrupt window (V_IRQ in the VMCB):
//! `cpu_interrupt` is called without the big lock there (`assertion failed` in 7.2, 10.0.2 and 11.1.3 alike). UEFI
//! firmware writes CR8 whenever it returns from an interrupt. With an exit for each write, the emulator never comes
//! there; guests see no difference.
//!
//! A processor starts with the intercept (`init_vmcb`); it is only ever taken away by `svm_update_cr8_intercept`, which
//! KVM calls by its table of operations, if the table has it. So the one relocation that fills that place of the table
//! is taken out of the module.

use anyhow::{Context, Result, bail};

/// What no longer is called.
const FUNCTION: &[u8] = b"svm_update_cr8_intercept";
/// Where the table of operations lies until KVM has copied it.
const TABLE: &[u8] = b".rela.init.data";

/// What a signed module ends with (Linux, `Documentation/admin-guide/module-signing.rst`).
const SIGNED: &[u8] = b"~Module signature appended~\n";

// Names and numbers as in the ELF-64 object file format and in the psABI for x86-64 (4.4.1).
const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const SYMBOL_SIZE: usize = 24;
const RELOCATION_SIZE: usize = 24;
const STT_SECTION: u8 = 3;
const R_X86_64_64: u32 = 1;
const R_X86_64_NONE: u32 = 0;

/// Changes the module's object file so. It is an error if it is not built as expected.
pub(super) fn always_intercept(object: &mut Vec<u8>) -> Result<()> {
    let places = places(object).context("the kernel's kvm-amd is no object file that can be read")?;
    let [place] = places[..] else {
        bail!("the kernel's kvm-amd names svm_update_cr8_intercept {} times in its operations, not once", places.len());
    };
    object[place..place + 4].copy_from_slice(&R_X86_64_NONE.to_le_bytes());
    // A kernel that demands no signature takes a module without one, but none with a wrong one.
    if object.ends_with(SIGNED) {
        object.truncate(object.len() - SIGNED.len());
    }
    Ok(())
}

/// Where in the file the types of the relocations are that put the function's address into the table.
fn places(object: &[u8]) -> Option<Vec<usize>> {
    let sections = sections(object)?;
    let listed = sections.iter().find(|section| section.kind == SHT_SYMTAB)?;
    let strings = sections.get(listed.link)?;
    let symbols: Vec<_> = listed.entries(object, SYMBOL_SIZE)?.map(Symbol::read).collect::<Option<_>>()?;
    let named = |symbol: &&Symbol| text(object, strings.offset + symbol.name) == Some(FUNCTION);
    let function = symbols.iter().find(named)?;
    // An assembler names a local function by its section and its place there.
    let is_function = |relocation: &[u8]| {
        let symbol = symbols.get(number(relocation, 12)? as usize)?;
        let addend = long(relocation, 16)?;
        let base = if symbol.kind == STT_SECTION { 0 } else { symbol.value };
        let same = symbol.section == function.section && base.wrapping_add(addend) == function.value;
        Some(same && number(relocation, 8)? == R_X86_64_64)
    };
    let names = sections.get(usize::from(short(object, 0x3e)?))?.offset;
    let table = sections
        .iter()
        .find(|section| section.kind == SHT_RELA && text(object, names + section.name) == Some(TABLE))?;
    let found = table.entries(object, RELOCATION_SIZE)?.enumerate();
    let found = found.filter(|(_, relocation)| is_function(relocation) == Some(true));
    Some(found.map(|(index, _)| table.offset + index * RELOCATION_SIZE + 8).collect())
}

struct Section {
    name: usize,
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

impl Section {
    fn read(header: &[u8]) -> Option<Self> {
        Some(Self {
            name: number(header, 0)? as usize,
            kind: number(header, 4)?,
            offset: usize::try_from(long(header, 24)?).ok()?,
            size: usize::try_from(long(header, 32)?).ok()?,
            link: number(header, 40)? as usize,
        })
    }

    fn entries<'a>(&self, object: &'a [u8], size: usize) -> Option<std::slice::ChunksExact<'a, u8>> {
        Some(object.get(self.offset..self.offset.checked_add(self.size)?)?.chunks_exact(size))
    }
}

struct Symbol {
    name: usize,
    kind: u8,
    section: u16,
    value: u64,
}

impl Symbol {
    fn read(entry: &[u8]) -> Option<Self> {
        let name = number(entry, 0)? as usize;
        Some(Self { name, kind: entry.get(4)? & 0xf, section: short(entry, 6)?, value: long(entry, 8)? })
    }
}

fn sections(object: &[u8]) -> Option<Vec<Section>> {
    object.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let (at, size) = (usize::try_from(long(object, 0x28)?).ok()?, usize::from(short(object, 0x3a)?));
    let headers = object.get(at..)?.chunks_exact(size.max(1)).take(usize::from(short(object, 0x3c)?));
    headers.map(Section::read).collect()
}

/// The text up to its zero byte.
fn text(object: &[u8], at: usize) -> Option<&[u8]> {
    object.get(at..)?.split(|byte| *byte == 0).next()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{R_X86_64_64, R_X86_64_NONE, SHT_RELA, SHT_SYMTAB, SIGNED, always_intercept};

    /// The relocations lie first, behind the header: for the function's first neighbour, then for it as often as wanted.
    const RELOCATIONS: usize = 64;
    const FUNCTION_AT: u64 = 0x3a00;

    /// An object with the function and a table that names it by its section, as assemblers do.
    fn object(named: usize) -> Vec<u8> {
        let names = b"\0.rela.init.data\0svm_update_cr8_intercept\0";
        let addends = [0x10].into_iter().chain([FUNCTION_AT].repeat(named));
        let relocation = |addend: u64| [8, 1 << 32 | u64::from(R_X86_64_64), addend].map(u64::to_le_bytes).concat();
        let relocations: Vec<u8> = addends.flat_map(relocation).collect();
        // No symbol, the text's section, the function in it: name, kind, section, value.
        let symbol = |name: u32, kind: u8, value: u64| {
            [&name.to_le_bytes()[..], &[kind, 0, 3, 0], &value.to_le_bytes(), &[0; 8]].concat()
        };
        let symbols = [vec![0; 24], symbol(0, 3, 0), symbol(17, 2, FUNCTION_AT)].concat();
        let mut file = vec![0; RELOCATIONS];
        let mut header = |name: u32, kind: u32, content: &[u8]| {
            let at = file.len() as u64;
            file.extend(content);
            let mut header = [&name.to_le_bytes()[..], &kind.to_le_bytes(), &[0; 16], &at.to_le_bytes()].concat();
            header.extend((content.len() as u64).to_le_bytes());
            // All names lie in section 2.
            header.extend([2, 0, 0, 0]);
            header.resize(64, 0);
            header
        };
        let headers = [
            header(1, SHT_RELA, &relocations),
            header(0, SHT_SYMTAB, &symbols),
            header(0, 3, names),
            header(0, 1, &[]),
        ];
        let start = (file.len() as u64).to_le_bytes();
        file.extend(headers.concat());
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x28..0x30].copy_from_slice(&start);
        file[0x3a..0x40].copy_from_slice(&[64, 0, 4, 0, 2, 0]);
        file.extend(SIGNED);
        file
    }

    #[test]
    fn only_the_place_in_the_table_is_changed_and_no_wrong_signature_left() {
        let before = object(1);
        let mut after = before.clone();

        always_intercept(&mut after).unwrap();

        let mut expected = before[..before.len() - SIGNED.len()].to_vec();
        expected[RELOCATIONS + 24 + 8] = R_X86_64_NONE as u8;
        assert_eq!(after, expected);
    }

    #[test]
    fn module_that_is_built_otherwise_is_refused() {
        for named in [0, 2] {
            let error = always_intercept(&mut object(named)).unwrap_err().to_string();
            assert!(error.contains(&format!("{named} times")), "{error}");
        }
        assert!(always_intercept(&mut object(1)[..80].to_vec()).is_err());
    }
}
