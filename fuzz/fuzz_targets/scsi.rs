//! Command blocks of SCSI units: nothing asks twice, and nothing outside of the medium is touched.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_devices::testing::script;

fuzz_target!(|bytes: &[u8]| script::scsi(bytes));
