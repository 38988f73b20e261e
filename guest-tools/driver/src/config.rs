//! The configuration of a device. Every step from the plain e1000 to the paravirtual one is a value of it.

use e1000pv::pci::SUBSYSTEM_PARAVIRT;

/// When the device is told of packets to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discipline {
    /// TDT is written each time.
    #[default]
    Plain,
    /// TDT is not written while a transmit interrupt is expected.
    Combine,
    /// The CSB is used: TDT is written if the host asks for it.
    Csb,
}

impl Discipline {
    /// As it is spelled on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Discipline::Plain => "plain",
            Discipline::Combine => "combine",
            Discipline::Csb => "csb",
        }
    }
}

/// How often the plain discipline writes TDT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kick {
    /// For each packet, as a driver under a network stack does.
    #[default]
    Packet,
    /// For each batch.
    Batch,
}

/// Which packets ask for their completion to be reported (RS); combining needs all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Report {
    /// All.
    #[default]
    All,
    /// The last one of each batch.
    Batch,
}

/// What happens to interrupts while there is work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interrupts {
    /// They keep coming.
    #[default]
    Always,
    /// The first one masks them (IMC), and going to sleep unmasks them (IMS).
    Masked,
    /// They only wake who sleeps: outside of the device something masks them from the first one until the next sleep, so
    /// nothing waits for one while awake.
    Wake,
    /// The device raises none: whoever sleeps wakes by a clock.
    Never,
}

/// Fewest descriptors: RDLEN and TDLEN count in units of 8 (8254x manual 13.4.27).
pub const RING_MIN: u32 = 8;
/// Most descriptors.
pub const RING_MAX: u32 = 4096;

/// Everything about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// When TDT is written.
    pub discipline: Discipline,
    /// The subsystem id in PCI configuration space, which the platform has read.
    pub subsystem_id: u16,
    /// Transmit descriptors: a multiple of 8 from [`RING_MIN`] to [`RING_MAX`].
    pub tx_descriptors: u32,
    /// Receive descriptors, likewise.
    pub rx_descriptors: u32,
    /// Plain: how often TDT is written.
    pub kick: Kick,
    /// Plain: which packets have RS.
    pub report: Report,
    /// Masked while busy, or not.
    pub interrupts: Interrupts,
    /// Receive frames to any address.
    pub promiscuous: bool,
    /// Address to use in place of the device's own.
    pub mac: Option<[u8; 6]>,
    /// ITR, in units of 256 ns; 0 is off.
    pub itr: u16,
    /// TIDV, in units of 1.024 us; with it descriptors have IDE.
    pub tidv: u16,
    /// TADV, in units of 1.024 us; with it descriptors have IDE.
    pub tadv: u16,
    /// RDTR, in units of 1.024 us.
    pub rdtr: u16,
    /// RADV, in units of 1.024 us.
    pub radv: u16,
    /// CSB: packets that wait before a sleeping host is kicked; 0 is half of the ring.
    pub kick_batch: u32,
    /// CSB: time that they wait at most.
    pub kick_delay_ns: u64,
    /// CSB: `host_txcycles_lim`, rounds without work after which the host sleeps.
    pub txcycles_lim: u32,
    /// Time to look for work before going to sleep.
    pub spin_ns: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            discipline: Discipline::Plain,
            subsystem_id: 0,
            tx_descriptors: 1024,
            rx_descriptors: 1024,
            kick: Kick::Packet,
            report: Report::All,
            interrupts: Interrupts::Always,
            promiscuous: false,
            mac: None,
            itr: 0,
            tidv: 0,
            tadv: 0,
            rdtr: 0,
            radv: 0,
            kick_batch: 0,
            kick_delay_ns: 50_000,
            txcycles_lim: 1,
            spin_ns: 0,
        }
    }
}

impl Interrupts {
    /// Whether what the device has done is to be seen in descriptors alone.
    pub(crate) fn tell_nothing(self) -> bool {
        matches!(self, Interrupts::Wake | Interrupts::Never)
    }
}

impl Config {
    /// The discipline that this device can do.
    pub(crate) fn effective(&self) -> Discipline {
        match self.discipline {
            Discipline::Csb if self.subsystem_id != SUBSYSTEM_PARAVIRT => Discipline::Plain,
            wanted => wanted,
        }
    }

    /// Checks ring sizes.
    pub(crate) fn sizes_valid(&self) -> bool {
        let valid = |n: u32| (RING_MIN..=RING_MAX).contains(&n) && n.is_multiple_of(8);
        valid(self.tx_descriptors) && valid(self.rx_descriptors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csb_needs_the_paravirtual_subsystem() {
        let mut config = Config { discipline: Discipline::Csb, ..Config::default() };
        assert_eq!(config.effective(), Discipline::Plain);
        config.subsystem_id = SUBSYSTEM_PARAVIRT;
        assert_eq!(config.effective(), Discipline::Csb);
        config.discipline = Discipline::Combine;
        assert_eq!(config.effective(), Discipline::Combine);
    }

    #[test]
    fn ring_sizes_are_multiples_of_eight_within_limits() {
        let valid = |n| Config { rx_descriptors: n, ..Config::default() }.sizes_valid();
        assert!([8, 256, 4088, 4096].into_iter().all(valid));
        assert!(![0, 4, 12, 4100, 4104].into_iter().any(valid));
    }
}
