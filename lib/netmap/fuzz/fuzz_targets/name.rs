//! See `netmap::fuzz::name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmap::fuzz::name(data));
