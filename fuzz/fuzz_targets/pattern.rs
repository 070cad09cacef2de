//! A pattern and a text, divided by the first newline: matched within the promised number of steps.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::pattern(bytes));
