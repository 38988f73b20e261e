//! See `e1000pv_vmm::e1000::fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| e1000pv_vmm::e1000::fuzz::device(data));
