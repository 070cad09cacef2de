//! Bodies and addresses of the raw cache: read or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::batch(bytes));
