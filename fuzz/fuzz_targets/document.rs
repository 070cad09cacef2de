//! Bytes as a document of each kind that an admin may put.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::document(bytes));
