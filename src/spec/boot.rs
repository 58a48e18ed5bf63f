//! What the guest starts with.

use std::path::PathBuf;

use super::error::SpecError;

spec_struct! {
    /// `-boot` as written.
    pub struct BootOptions as "BootConfiguration" {
        /// Letters of drives in order: a and b floppies, c the first disk, d the first CD, n to p networks.
        pub order: Option<String>,
        /// The same for the first start only.
        pub once: Option<String>,
        /// Firmware lets the user choose.
        pub menu: bool = false,
        /// Picture that firmware shows; not here.
        pub splash: Option<String>,
        /// Milliseconds that firmware shows it.
        pub splash_time: Option<u16>,
        /// Milliseconds after which firmware starts again when nothing boots.
        pub reboot_timeout: Option<i32>,
        /// Firmware boots nothing but what bootindex names.
        pub strict: bool = false,
    }
}

impl BootOptions {
    /// Refuses letters that are no drives.
    ///
    /// # Errors
    /// The first such letter, or a picture.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.splash.is_some() {
            return Err(SpecError::refused("'splash'", "leave it out: there is no display"));
        }
        [&self.order, &self.once].into_iter().flatten().try_for_each(|letters| check_order(letters))
    }
}

fn check_order(letters: &str) -> Result<(), SpecError> {
    let mut seen = String::new();
    for letter in letters.chars() {
        if !('a'..='p').contains(&letter) {
            return Err(SpecError::new(format!("Invalid boot device '{}'", letter.escape_default())));
        }
        if seen.contains(letter) {
            return Err(SpecError::new(format!("Boot device '{letter}' was given twice")));
        }
        seen.push(letter);
    }
    Ok(())
}

spec_struct! {
    /// A file for firmware and guest (`-fw_cfg`).
    pub struct FwCfgSpec as "fw_cfg" {
        /// Its name, which begins with opt/ for the user's own.
        pub name: String,
        /// The host's file with its content.
        pub file: Option<String>,
        /// The content.
        pub string: Option<String>,
    }
}

impl FwCfgSpec {
    /// Refuses what is not exactly one content.
    ///
    /// # Errors
    /// QEMU's words.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.name.is_empty() {
            return Err(SpecError::new("name not specified"));
        }
        if self.name.len() > LONGEST_NAME {
            return Err(SpecError::new(format!("name too long (max. {LONGEST_NAME} char)")));
        }
        match (&self.file, &self.string) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err(SpecError::new("exactly one of 'file' and 'string' must be given")),
        }
    }
}

/// Most bytes of a file's name in the directory of fw_cfg, without the zero behind it.
const LONGEST_NAME: usize = 55;

spec_struct! {
    /// A ROM that firmware runs (`-option-rom`).
    pub struct OptionRomSpec as "option-rom" {
        /// The host's file with its content.
        pub romfile: String,
        /// Place in the order of starting.
        pub bootindex: Option<i32>,
    }
}

/// A kernel handed over directly, and the order of drives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BootSpec {
    /// Kernel image: bzImage, ELF or multiboot.
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk, or multiboot's list of modules.
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel.
    pub append: Option<String>,
    /// Firmware image by name or path; the board's own when there is no kernel.
    pub firmware: Option<PathBuf>,
    /// Directories in which files of firmware are looked for first.
    pub data_dirs: Vec<PathBuf>,
    /// Files for firmware and guest, by name.
    pub files: Vec<FwCfgSpec>,
    /// ROMs that firmware runs.
    pub option_roms: Vec<OptionRomSpec>,
    /// `-boot`: for firmware, which the board tells.
    pub options: BootOptions,
    /// Firmware starts a floppy without the signature of a boot sector (`-no-fd-bootchk`).
    pub any_floppy: bool,
}
