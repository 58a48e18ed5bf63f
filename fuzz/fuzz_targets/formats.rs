//! An image of another program's format, which is only read; what is tried is every format that Rhea knows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_block::format::Foreign;
use rhea_fuzz::{SmallFile, look_around};

fuzz_target!(|bytes: &[u8]| {
    let _ = rhea_block::probe::format_of(bytes);
    for format in Foreign::ALL {
        if let Ok(disk) = format.open(&SmallFile::layer(bytes)) {
            look_around(disk.as_ref());
        }
    }
});
