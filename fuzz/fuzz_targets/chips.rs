//! The clock, fw_cfg, flash and configuration space.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_devices::testing::script;

fuzz_target!(|bytes: &[u8]| script::chips(bytes));
