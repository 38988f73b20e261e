//! Who else is on the switch: said when nobody is there to take or send packets, when somebody shares the
//! port, and when other users have switches of the same name.

use netmap::PortName;
use netmap::control::{self, Switch};
use netmap::name::SwitchPort;
use nm_cli::say;

/// A look at the switch of a port.
#[derive(Debug)]
pub struct Neighbours {
    switch: String,
    /// Other ports.
    others: usize,
    /// Other processes that have this port open, by number and name.
    sharers: Vec<(u32, String)>,
}

impl Neighbours {
    /// Looks; `None` if the port is on no switch, or the switch cannot be looked at.
    pub fn of(name: &PortName) -> Option<Neighbours> {
        let SwitchPort { switch, port } = name.switch_port()?;
        let info = Switch::open(switch).ok()?.info().ok()?;
        let mut found = Neighbours { switch: info.name, others: 0, sharers: Vec::new() };
        for other in info.ports {
            if other.name == port {
                let strangers =
                    other.users.into_iter().filter(|user| user.pid != std::process::id());
                found.sharers.extend(strangers.map(|user| (user.pid, user.command)));
            } else {
                found.others += 1;
            }
        }
        Some(found)
    }

    /// True if the port is alone.
    pub fn alone(&self) -> bool {
        self.others == 0
    }

    /// Says that the port is alone, and what that means.
    pub fn tell_alone(&self, sends: bool) {
        let Neighbours { switch, .. } = self;
        let what = if sends { "what is sent reaches nobody" } else { "nobody can send anything" };
        say!("nm-pktgen: no other port is on {switch}: {what}");
        tell_roots();
    }

    /// Says who else has the port open; of two that receive on one ring, each gets a part. A monitor has rings of its own.
    pub fn tell_sharers(&self, name: &PortName) {
        if name.is_monitor() {
            return;
        }
        for (pid, command) in &self.sharers {
            say!(
                "nm-pktgen: {name} is also open in process {pid} ({command}); if that receives, too, \
                 each gets only a part of the packets"
            );
        }
    }
}

/// Says what there is to know about the root: users have roots of their own, and names do not tell.
pub fn tell_roots() {
    for note in control::root_notes() {
        say!("nm-pktgen: {note}");
    }
}
