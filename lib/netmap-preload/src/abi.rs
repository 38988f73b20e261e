//! netmap's requests, as C programs lay them out (API 14 on x86-64 Linux).
//!
//! Invariant: every size and offset equals that of netmap's own headers; the assertions at the end of the file refuse
//! to compile otherwise. No structure has padding that is not a field.

use crate::user::Plain;

/// Versions that NIOCCTRL accepts.
pub const API: std::ops::RangeInclusive<u16> = 14..=15;
/// Most bytes of a request, its options included.
pub const REQUEST_MOST: usize = 4096;
/// Bytes that each option counts beyond its own.
pub const OPTION_EXTRA: usize = 8;

/// `NIOCCTRL`.
pub const NIOCCTRL: u64 = 0xC058_6997;
/// `NIOCTXSYNC`.
pub const NIOCTXSYNC: u64 = 0x6994;
/// `NIOCRXSYNC`.
pub const NIOCRXSYNC: u64 = 0x6995;
/// `NIOCGINFO`, of the legacy API.
pub const NIOCGINFO: u64 = 0xC03C_6991;
/// `NIOCREGIF`, of the legacy API.
pub const NIOCREGIF: u64 = 0xC03C_6992;
/// `NIOCCONFIG`.
pub const NIOCCONFIG: u64 = 0xC110_6996;

/// `nr_reqtype`.
pub mod reqtype {
    /// Binds a descriptor.
    pub const REGISTER: u16 = 1;
    /// Sizes of a port.
    pub const PORT_INFO_GET: u16 = 2;
    /// Attaches an interface to a switch.
    pub const VALE_ATTACH: u16 = 3;
    /// Takes it off again.
    pub const VALE_DETACH: u16 = 4;
    /// Names the ports of switches.
    pub const VALE_LIST: u16 = 5;
    /// Length of the virtio-net header.
    pub const PORT_HDR_SET: u16 = 6;
    /// The same, asked.
    pub const PORT_HDR_GET: u16 = 7;
    /// Makes a persistent port.
    pub const VALE_NEWIF: u16 = 8;
    /// Removes it.
    pub const VALE_DELIF: u16 = 9;
    /// A kernel thread that polls.
    pub const VALE_POLLING_ENABLE: u16 = 10;
    /// Ends it.
    pub const VALE_POLLING_DISABLE: u16 = 11;
    /// Where pools lie.
    pub const POOLS_INFO_GET: u16 = 12;
    /// A loop that syncs.
    pub const SYNC_KLOOP_START: u16 = 13;
    /// Ends it.
    pub const SYNC_KLOOP_STOP: u16 = 14;
    /// Indices in memory of the program's.
    pub const CSB_ENABLE: u16 = 15;
}

/// `nro_reqtype`.
pub mod option {
    /// Memory of the program's own.
    pub const EXTMEM: u32 = 1;
    /// Kicks of SYNC_KLOOP_START.
    pub const SYNC_KLOOP_EVENTFDS: u32 = 2;
    /// Tables for CSB_ENABLE.
    pub const CSB: u32 = 3;
    /// How SYNC_KLOOP_START works.
    pub const SYNC_KLOOP_MODE: u32 = 4;
    /// Where packets begin in buffers.
    pub const OFFSETS: u32 = 5;
}

/// `nr_mode`.
pub mod mode {
    /// That of the oldest API: from `nr_ringid`.
    pub const DEFAULT: u32 = 0;
    /// All rings of the port.
    pub const ALL_NIC: u32 = 1;
    /// All host rings.
    pub const SW: u32 = 2;
    /// Both.
    pub const NIC_SW: u32 = 3;
    /// One pair.
    pub const ONE_NIC: u32 = 4;
    /// A pipe's master, by number.
    pub const PIPE_MASTER: u32 = 5;
    /// A pipe's slave, by number.
    pub const PIPE_SLAVE: u32 = 6;
    /// No rings.
    pub const NULL: u32 = 7;
    /// One pair of host rings.
    pub const ONE_SW: u32 = 8;
}

bitflags::bitflags! {
    /// `nr_flags` of REGISTER. Bits without a name are ignored, as netmap does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegisterFlags: u64 {
        /// A copy of what the port sends.
        const MONITOR_TX = 0x100;
        /// A copy of what it receives.
        const MONITOR_RX = 0x200;
        /// Without copying.
        const ZCOPY_MON = 0x400;
        /// Nobody else.
        const EXCLUSIVE = 0x800;
        /// Receive rings only.
        const RX_RINGS_ONLY = 0x2000;
        /// Transmit rings only.
        const TX_RINGS_ONLY = 0x4000;
        /// The program knows virtio-net headers.
        const ACCEPT_VNET_HDR = 0x8000;
        /// poll(2) receives, whatever it waits for.
        const DO_RX_POLL = 0x10000;
        /// poll(2) does not send unless it waits for room.
        const NO_TX_POLL = 0x20000;
        const _ = !0;
    }
}

macro_rules! structure {
    ($(#[$doc:meta])* $name:ident $size:literal { $($field:ident : $type:ty = $at:literal,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "netmap's names, in netmap's order")]
        pub struct $name { $(pub $field: $type,)* }

        // SAFETY: integers and arrays of them, without padding: the sizes of the fields add up, see below.
        unsafe impl Plain for $name {}

        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(0 $(+ size_of::<$type>())* == $size);
            $(assert!(std::mem::offset_of!($name, $field) == $at);)*
        };

        impl Default for $name {
            fn default() -> Self {
                // SAFETY: any bits are a value.
                unsafe { std::mem::zeroed() }
            }
        }
    };
}

structure! {
    /// `nmreq_header`.
    Header 88 {
        version: u16 = 0,
        reqtype: u16 = 2,
        reserved: u32 = 4,
        name: [u8; 64] = 8,
        options: u64 = 72,
        body: u64 = 80,
    }
}
structure! {
    /// `nmreq_option`.
    OptionHeader 24 {
        next: u64 = 0,
        reqtype: u32 = 8,
        status: u32 = 12,
        size: u64 = 16,
    }
}
structure! {
    /// `nmreq_register`.
    Register 56 {
        offset: u64 = 0,
        memsize: u64 = 8,
        tx_slots: u32 = 16,
        rx_slots: u32 = 20,
        tx_rings: u16 = 24,
        rx_rings: u16 = 26,
        host_tx_rings: u16 = 28,
        host_rx_rings: u16 = 30,
        mem_id: u16 = 32,
        ringid: u16 = 34,
        mode: u32 = 36,
        extra_bufs: u32 = 40,
        pad: u32 = 44,
        flags: u64 = 48,
    }
}
structure! {
    /// `nmreq_port_info_get`.
    PortInfo 32 {
        memsize: u64 = 0,
        tx_slots: u32 = 8,
        rx_slots: u32 = 12,
        tx_rings: u16 = 16,
        rx_rings: u16 = 18,
        host_tx_rings: u16 = 20,
        host_rx_rings: u16 = 22,
        mem_id: u16 = 24,
        pad: [u16; 3] = 26,
    }
}
structure! {
    /// `nmreq_vale_attach`.
    ValeAttach 64 {
        register: Register = 0,
        port_index: u32 = 56,
        pad: u32 = 60,
    }
}
structure! {
    /// `nmreq_vale_detach`.
    ValeDetach 8 {
        port_index: u32 = 0,
        pad: u32 = 4,
    }
}
structure! {
    /// `nmreq_vale_list`.
    ValeList 8 {
        bridge_idx: u16 = 0,
        pad: u16 = 2,
        port_idx: u32 = 4,
    }
}
structure! {
    /// `nmreq_port_hdr`.
    PortHdr 8 {
        hdr_len: u32 = 0,
        pad: u32 = 4,
    }
}
structure! {
    /// `nmreq_vale_newif`.
    ValeNewif 16 {
        tx_slots: u32 = 0,
        rx_slots: u32 = 4,
        tx_rings: u16 = 8,
        rx_rings: u16 = 10,
        mem_id: u16 = 12,
        pad: u16 = 14,
    }
}
structure! {
    /// `nmreq_vale_polling`.
    ValePolling 16 {
        mode: u32 = 0,
        first_cpu: u32 = 4,
        num_cpus: u32 = 8,
        pad: u32 = 12,
    }
}
structure! {
    /// `nmreq_pools_info`.
    PoolsInfo 64 {
        memsize: u64 = 0,
        mem_id: u16 = 8,
        pad: [u16; 3] = 10,
        if_pool_offset: u64 = 16,
        if_objtotal: u32 = 24,
        if_objsize: u32 = 28,
        ring_pool_offset: u64 = 32,
        ring_objtotal: u32 = 40,
        ring_objsize: u32 = 44,
        buf_pool_offset: u64 = 48,
        buf_objtotal: u32 = 56,
        buf_objsize: u32 = 60,
    }
}
structure! {
    /// `nmreq_sync_kloop_start`.
    KloopStart 8 {
        sleep_us: u32 = 0,
        pad: u32 = 4,
    }
}
structure! {
    /// `nm_csb_atok`: written by the program.
    CsbAtok 64 {
        head: u32 = 0,
        cur: u32 = 4,
        appl_need_kick: u32 = 8,
        sync_flags: u32 = 12,
        pad: [u32; 12] = 16,
    }
}
structure! {
    /// `nm_csb_ktoa`: written by the loop.
    CsbKtoa 64 {
        hwcur: u32 = 0,
        hwtail: u32 = 4,
        kern_need_kick: u32 = 8,
        pad: [u32; 13] = 12,
    }
}
structure! {
    /// `nmreq_opt_csb`.
    OptionCsb 40 {
        header: OptionHeader = 0,
        atok: u64 = 24,
        ktoa: u64 = 32,
    }
}
structure! {
    /// Of `nmreq_opt_sync_kloop_eventfds`, which has one for each ring behind its header.
    KickFds 8 {
        ioeventfd: i32 = 0,
        irqfd: i32 = 4,
    }
}
structure! {
    /// `nmreq_opt_sync_kloop_mode`.
    OptionKloopMode 32 {
        header: OptionHeader = 0,
        mode: u32 = 24,
        pad: u32 = 28,
    }
}
structure! {
    /// `nmreq_opt_offsets`.
    OptionOffsets 56 {
        header: OptionHeader = 0,
        max_offset: u64 = 24,
        initial_offset: u64 = 32,
        offset_bits: u32 = 40,
        tx_align: u32 = 44,
        min_gap: u64 = 48,
    }
}
structure! {
    /// `nmreq`, of the legacy API.
    Legacy 60 {
        name: [u8; 16] = 0,
        version: u32 = 16,
        offset: u32 = 20,
        memsize: u32 = 24,
        tx_slots: u32 = 28,
        rx_slots: u32 = 32,
        tx_rings: u16 = 36,
        rx_rings: u16 = 38,
        ringid: u16 = 40,
        cmd: u16 = 42,
        arg1: u16 = 44,
        arg2: u16 = 46,
        arg3: u32 = 48,
        flags: u32 = 52,
        spare2: u32 = 56,
    }
}

/// `nr_cmd` of the legacy API.
pub mod command {
    /// VALE_ATTACH.
    pub const BDG_ATTACH: u16 = 1;
    /// VALE_DETACH.
    pub const BDG_DETACH: u16 = 2;
    /// A module's own forwarding.
    pub const BDG_REGOPS: u16 = 3;
    /// VALE_LIST.
    pub const BDG_LIST: u16 = 4;
    /// PORT_HDR_SET.
    pub const BDG_VNET_HDR: u16 = 5;
    /// VALE_NEWIF.
    pub const BDG_NEWIF: u16 = 6;
    /// VALE_DELIF.
    pub const BDG_DELIF: u16 = 7;
    /// VALE_POLLING_ENABLE.
    pub const BDG_POLLING_ON: u16 = 10;
    /// VALE_POLLING_DISABLE.
    pub const BDG_POLLING_OFF: u16 = 11;
    /// PORT_HDR_GET.
    pub const VNET_HDR_GET: u16 = 12;
}

/// Bits of `nmreq_opt_sync_kloop_mode`: work is done in the context of whoever kicks.
pub mod direct {
    /// Of TX rings.
    pub const TX: u32 = 1;
    /// Of RX rings.
    pub const RX: u32 = 2;
}

/// Bits of `nr_ringid` of the legacy API.
pub mod ringid {
    /// NR_NO_TX_POLL.
    pub const NO_TX_POLL: u16 = 0x1000;
    /// Host rings.
    pub const SW_RING: u16 = 0x2000;
    /// One ring.
    pub const HW_RING: u16 = 0x4000;
    /// NR_DO_RX_POLL.
    pub const DO_RX_POLL: u16 = 0x8000;
    /// Its number.
    pub const MASK: u16 = 0x0fff;
}
