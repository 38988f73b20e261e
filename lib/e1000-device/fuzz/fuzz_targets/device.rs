//! See `e1000_device::harness::fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| e1000_device::harness::fuzz::device(data));
