//! Registers and commands of IDE drives: task file, data, bus master, packets.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_devices::testing::script;

fuzz_target!(|bytes: &[u8]| script::ide(bytes));
