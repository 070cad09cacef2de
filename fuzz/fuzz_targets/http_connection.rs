//! A connection of HTTP/1 with any number of requests: between our own reader of heads and hyper nothing is lost, doubled or
//! taken for something else, however the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hifz::fuzzing::http_connection(bytes));
