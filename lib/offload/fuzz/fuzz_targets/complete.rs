//! See `offload::fuzz::complete`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offload::fuzz::complete(data));
