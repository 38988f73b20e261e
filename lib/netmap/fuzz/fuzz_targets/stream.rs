//! See `netmap::fuzz::stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmap::fuzz::stream(data));
