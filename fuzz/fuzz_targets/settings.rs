//! Text as a settings file, and each line as the value of every kind of setting.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::settings(bytes));
