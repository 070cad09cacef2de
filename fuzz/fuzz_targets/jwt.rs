//! Bytes as a user token, as header and claims of a signed one, and as a key set.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::jwt(bytes));
