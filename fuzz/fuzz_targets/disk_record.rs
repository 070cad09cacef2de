//! Bytes as a stored record: decoded only when whole and unharmed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::disk_record(bytes));
