//! Option ROMs that firmware finds as files, and their places in the order of starting.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::boot::{BootPlanError, has_place};
use crate::spec::boot::BootSpec;

/// The file of the ROM that starts the kernel of `-kernel`, as other monitors call it.
pub const KERNEL_ROM: &str = "linuxboot_dma.bin";
/// Most bytes of a ROM: 255 units of 512, as its length field counts.
const MOST: u64 = 255 * 512;

/// Comes before every place that a user gives.
const FIRST: i32 = i32::MIN;

/// Reads the ROMs of `-option-rom`; `firmware` is there to run them.
pub(super) fn read(spec: &BootSpec, firmware: bool) -> Result<Vec<(String, Vec<u8>)>, BootPlanError> {
    if !firmware && !spec.option_roms.is_empty() {
        return Err(BootPlanError::RomWithoutFirmware);
    }
    let one = |path: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
        match bytes.get(..2) {
            _ if bytes.len() as u64 > MOST => Err(io::Error::other("it has more than 127.5 KiB")),
            Some([0x55, 0xaa]) => Ok(bytes),
            _ => Err(io::Error::other("it does not begin with 55 aa, as an option ROM does")),
        }
    };
    let roms = spec.option_roms.iter().map(|rom| {
        let failed = |source| BootPlanError::OptionRom { file: rom.romfile.clone(), source };
        Ok((name(&rom.romfile).to_owned(), one(Path::new(&rom.romfile)).map_err(failed)?))
    });
    roms.collect()
}

/// Paths of the ROMs that have a `bootindex`, and of the kernel's, which comes before everything.
pub(super) fn paths(spec: &BootSpec, firmware: bool) -> Vec<(i32, String)> {
    let path = |name: &str| format!("/rom@genroms/{name}");
    let kernel = (firmware && spec.kernel.is_some()).then(|| (FIRST, path(KERNEL_ROM)));
    let asked =
        spec.option_roms.iter().filter_map(|rom| Some((rom.bootindex.filter(has_place)?, path(name(&rom.romfile)))));
    kernel.into_iter().chain(asked).collect()
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::boot::OptionRomSpec;

    #[test]
    fn kernel_comes_before_roms_and_only_for_firmware() {
        let rom = OptionRomSpec { romfile: "/roms/net.rom".into(), bootindex: Some(0) };
        let none = OptionRomSpec { romfile: "/roms/late.rom".into(), bootindex: Some(-1) };
        let spec = BootSpec { kernel: Some("vmlinuz".into()), option_roms: vec![rom, none], ..BootSpec::default() };

        let rom = (0, "/rom@genroms/net.rom".to_owned());
        assert_eq!(paths(&spec, true), [(FIRST, "/rom@genroms/linuxboot_dma.bin".to_owned()), rom.clone()]);
        assert_eq!(paths(&spec, false), [rom]);
    }

    #[test]
    fn file_that_is_no_rom_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, "hello").unwrap();
        let rom = OptionRomSpec { romfile: path.display().to_string(), bootindex: None };

        let spec = BootSpec { option_roms: vec![rom], ..BootSpec::default() };

        assert!(matches!(read(&spec, true), Err(BootPlanError::OptionRom { .. })));
        assert!(matches!(read(&spec, false), Err(BootPlanError::RomWithoutFirmware)));
    }
}
