//! Interrupts: descriptor table, IOAPIC, local APIC with its timer, and sleep.
//!
//! Handlers are the stubs of `boot.s`: they read ICR, note the causes in `nics`, count. So nothing in
//! Rust ever runs in an interrupt, and sleep can compare the count with what the caller has seen.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use e1000pv::idle;

use crate::arch::outl;
use crate::io::{read32, write32};

const IOAPIC: usize = 0xfec0_0000;
const LAPIC: usize = 0xfee0_0000;
const LAPIC_SVR: usize = LAPIC + 0xf0;
const LAPIC_LVT_TIMER: usize = LAPIC + 0x320;
const LAPIC_LVT_LINT0: usize = LAPIC + 0x350;
const LAPIC_TIMER_INIT: usize = LAPIC + 0x380;
const LAPIC_TIMER_NOW: usize = LAPIC + 0x390;
const LAPIC_TIMER_DIVIDE: usize = LAPIC + 0x3e0;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;

const VECTOR_NIC: u8 = 0x30;
const VECTOR_TIMER: u8 = 0x31;
const VECTOR_SPURIOUS: u8 = 0xff;

/// What the stub knows of one interface; 16 bytes, as boot.s has it.
#[repr(C)]
#[derive(Debug)]
pub struct Shared {
    /// Address of ICR, 0 if there is no such interface. For the stub.
    icr: AtomicU32,
    /// Causes that were read from ICR and not yet taken.
    pub causes: AtomicU32,
    /// Interrupts with a cause of this interface.
    pub interrupts: AtomicU32,
    _pad: u32,
}

/// The block that the idle call and the stubs share: `lib/e1000pv/src/idle.rs` has the layout.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct IdleBlock {
    /// Per interface.
    pub nics: [Shared; idle::NICS],
    /// Wake-ups of any kind.
    pub wakeups: AtomicU32,
    /// For the call: what the caller has seen.
    pub seen: AtomicU32,
    /// For the call: 0 or the longest sleep.
    pub timeout_ns: AtomicU64,
    /// From the call: somebody wants the workload to end.
    pub stop: AtomicU32,
}

const _: () = {
    use core::mem::offset_of;
    use idle::layout;
    assert!(size_of::<Shared>() == layout::NIC_STRIDE as usize);
    assert!(offset_of!(Shared, causes) == layout::CAUSES as usize);
    assert!(offset_of!(Shared, interrupts) == layout::INTERRUPTS as usize);
    assert!(offset_of!(IdleBlock, wakeups) == layout::WAKEUPS as usize);
    assert!(offset_of!(IdleBlock, seen) == layout::SEEN as usize);
    assert!(offset_of!(IdleBlock, timeout_ns) == layout::TIMEOUT_NS as usize);
    assert!(offset_of!(IdleBlock, stop) == layout::STOP as usize);
};

unsafe extern "C" {
    static idle_block: IdleBlock;
    static mut idt: [u64; 512];
    fn irq_stub();
    fn timer_stub();
    fn spurious_stub();
    fn sleep_stub();
    fn exception_0();
    fn exception_8();
    fn exception_13();
    fn exception_14();
}

fn block() -> &'static IdleBlock {
    // SAFETY: a static of boot.s, made of atomics.
    unsafe { &idle_block }
}

/// What the stub notes of interface `i`.
pub fn shared(i: usize) -> &'static Shared {
    &block().nics[i]
}

/// Interrupts of any kind so far.
pub fn wakeups_now() -> u32 {
    block().wakeups.load(Ordering::Acquire)
}

fn gate(vector: u8, handler: unsafe extern "C" fn()) {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e;
    let at = handler as *const () as u64;
    let low = (at & 0xffff) | 0x10 << 16 | PRESENT_INTERRUPT_GATE << 40 | (at >> 16 & 0xffff) << 48;
    let entry = (&raw mut idt).cast::<u64>().wrapping_add(2 * usize::from(vector));
    // SAFETY: within the table, which only this function writes, before interrupts are on.
    unsafe { entry.write_volatile(low) };
    // SAFETY: as above.
    unsafe { entry.wrapping_add(1).write_volatile(at >> 32) };
}

/// Fills the interrupt descriptor table, so that faults are reported from here on.
pub fn init_faults() {
    gate(0, exception_0);
    gate(6, sleep_stub);
    gate(8, exception_8);
    gate(13, exception_13);
    gate(14, exception_14);
}

fn lapic(register: usize, value: u32) {
    // SAFETY: a register of the local APIC; none of them touches memory.
    unsafe { write32(register, value) };
}

fn ioapic(register: u32, value: u32) {
    // SAFETY: the IOAPIC's index register.
    unsafe { write32(IOAPIC, register) };
    // SAFETY: and its data register; neither touches memory.
    unsafe { write32(IOAPIC + 0x10, value) };
}

/// Turns the local APIC on. The 8259s are masked since boot.s.
pub fn init() {
    gate(VECTOR_NIC, irq_stub);
    gate(VECTOR_TIMER, timer_stub);
    gate(VECTOR_SPURIOUS, spurious_stub);
    lapic(LAPIC_SVR, 0x100 | u32::from(VECTOR_SPURIOUS));
    lapic(LAPIC_LVT_LINT0, MASKED);
    lapic(LAPIC_TIMER_DIVIDE, 0xb); // by 1
    lapic(LAPIC_LVT_TIMER, u32::from(VECTOR_TIMER));
}

/// Routes interface `i`, whose ICR is at `icr`, from its IOAPIC pin.
pub fn route(i: usize, icr: usize, pin: u8) {
    shared(i).icr.store(icr as u32, Ordering::Release);
    ioapic(0x11 + 2 * u32::from(pin), 0);
    ioapic(0x10 + 2 * u32::from(pin), LEVEL | u32::from(VECTOR_NIC));
}

/// Measures how fast the local timer counts; it takes a quarter of a millisecond, with the timer masked.
pub fn timer_ticks_per_ms(now_ns: impl Fn() -> u64) -> u32 {
    lapic(LAPIC_LVT_TIMER, MASKED | u32::from(VECTOR_TIMER));
    let start = now_ns();
    lapic(LAPIC_TIMER_INIT, u32::MAX);
    while now_ns() < start + 250_000 {}
    // SAFETY: a register of the local APIC, whose reading has no effect.
    let left = unsafe { read32(LAPIC_TIMER_NOW) };
    let elapsed_ns = now_ns() - start;
    lapic(LAPIC_TIMER_INIT, 0);
    lapic(LAPIC_LVT_TIMER, u32::from(VECTOR_TIMER));
    (u64::from(u32::MAX - left) * 1_000_000 / elapsed_ns).clamp(1, u64::from(u32::MAX)) as u32
}

/// One-shot timer: an interrupt after `ticks`; 0 stops it.
pub fn set_timer(ticks: u32) {
    lapic(LAPIC_TIMER_INIT, ticks);
}

/// Whether the monitor wants this machine to end.
pub fn stopping() -> bool {
    block().stop.load(Ordering::Relaxed) != 0
}

/// Tells the monitor where the block is, by a call that does not sleep.
pub fn introduce() {
    idle_call(wakeups_now().wrapping_sub(1), None);
}

/// Sleeps as `sleep` does, by the monitor's idle call.
pub fn idle_call(seen: u32, timeout_ns: Option<u64>) {
    block().seen.store(seen, Ordering::Relaxed);
    block().timeout_ns.store(timeout_ns.map_or(0, |ns| ns.max(1)), Ordering::Relaxed);
    outl(idle::PORT, &raw const *block() as u32);
}
