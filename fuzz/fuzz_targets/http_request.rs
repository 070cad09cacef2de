//! A request of HTTP/1 and whatever follows from it: its head, what it asks for, and what refuses it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::http_request(bytes));
