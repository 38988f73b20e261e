//! The steps of the ladder: from a plain e1000 to the paravirtual one, each adding one thing, as the
//! paper behind this project has them (Rizzo, Lettieri, Maffione: Speeding up packet I/O in virtual
//! machines, ANCS 2013).

use std::fmt;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Each TDT write is an exit, each packet an interrupt.
    Plain,
    /// The device keeps a distance between interrupts.
    Moderation,
    /// The driver writes no TDT while a transmit interrupt is to come.
    Combining,
    /// Both of these.
    Both,
    /// Guest and I/O thread tell each other by shared memory; kicks and interrupts only for sleepers.
    Csb,
    /// A round's packets enter the switch together.
    More,
    /// The switch copies from the guest's buffers, without a copy on the way.
    Indirect,
}

impl Step {
    /// All, from the bottom to the top.
    pub const ALL: [Step; 7] = [
        Step::Plain,
        Step::Moderation,
        Step::Combining,
        Step::Both,
        Step::Csb,
        Step::More,
        Step::Indirect,
    ];
    /// Bottom, middle and top, where all would take too long.
    pub const SOME: [Step; 3] = [Step::Plain, Step::Both, Step::TOP];
    /// The last one.
    pub const TOP: Step = Step::Indirect;

    /// The driver's transmit discipline.
    pub fn driver(self) -> &'static str {
        match self {
            Step::Plain | Step::Moderation => "plain",
            Step::Combining | Step::Both => "combine",
            Step::Csb | Step::More | Step::Indirect => "csb",
        }
    }

    /// Whether interrupts are moderated.
    pub fn moderates(self) -> bool {
        matches!(self, Step::Moderation | Step::Both)
    }

    /// Whether the device offers a CSB.
    pub fn has_csb(self) -> bool {
        self >= Step::Csb
    }

    /// Whether "more packets are coming" reaches the port.
    pub fn has_more(self) -> bool {
        self >= Step::More
    }

    /// Whether guest buffers are handed over by reference.
    pub fn is_indirect(self) -> bool {
        self >= Step::Indirect
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Step::Plain => "plain",
            Step::Moderation => "moderation",
            Step::Combining => "combining",
            Step::Both => "both",
            Step::Csb => "csb",
            Step::More => "csb-more",
            Step::Indirect => "csb-more-indirect",
        }
    }

    /// Why it is faster than what is before it.
    pub fn why(self) -> &'static str {
        match self {
            Step::Plain => "every packet is a register write, and every such write leaves the VM",
            Step::Moderation => "fewer interrupts, but every packet still leaves the VM to be sent",
            Step::Combining => "one register write sends all that has gathered: an exit per batch",
            Step::Both => "interrupts that come later gather larger batches",
            Step::Csb => "the tail is a store to shared memory; only a sleeper is woken",
            Step::More => "one lookup pass, one publication, one bell for a round of packets",
            Step::Indirect => "the switch copies out of the guest's memory: one copy, not two",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Plain => "plain e1000",
            Step::Moderation => "+ moderation",
            Step::Combining => "+ combining",
            Step::Both => "+ both",
            Step::Csb => "CSB",
            Step::More => "CSB + more",
            Step::Indirect => "CSB + more + indirect",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_differ_in_what_they_switch_on() {
        let switches = |step: Step| {
            (step.driver(), step.moderates(), step.has_csb(), step.has_more(), step.is_indirect())
        };
        for (i, &one) in Step::ALL.iter().enumerate() {
            for &other in &Step::ALL[i + 1..] {
                assert_ne!(switches(one), switches(other), "{one} and {other}");
                assert_ne!(one.to_string(), other.to_string());
            }
        }
        assert_eq!(switches(Step::Plain), ("plain", false, false, false, false));
        assert_eq!(switches(Step::TOP), ("csb", false, true, true, true));
    }
}
