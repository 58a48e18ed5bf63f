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

/// A kernel handed over directly, and the order of drives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BootSpec {
    /// Kernel image: bzImage, ELF or multiboot.
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk, or multiboot's list of modules.
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel.
    pub append: Option<String>,
    /// `-boot`: for firmware, which the board tells.
    pub options: BootOptions,
}
