//! Requests about switches: their list, persistent ports, and interfaces attached by a bridge.

use netmap::control::{self, PortInfo, SwitchInfo};
use netmap::{Direction, Error, Options, PortName};
use nix::errno::Errno;

use crate::abi::{ValeAttach, ValeDetach, ValeList, ValeNewif, ValePolling, mode, reqtype};
use crate::control::switches::{UNATTACHED, all, find, port};
use crate::control::{name, register};
use crate::handle::errno;
use crate::request::Request;
use crate::spawn;

/// Room for the name of an interface, with its zero byte.
const IFNAMSIZ: usize = 16;

/// VALE_LIST: the place of a port that is named, or the first port from a place on.
pub fn list(request: &mut Request) -> Result<(), Errno> {
    let asked: ValeList = request.body()?;
    let switches = all()?;
    let place = |(i, switch): (usize, &SwitchInfo), port: &PortInfo| {
        (i as u16, u32::from(port.index), format!("{}:{}", switch.name, port.name))
    };
    let all = switches
        .iter()
        .enumerate()
        .flat_map(|at| at.1.ports.iter().map(move |port| place(at, port)));
    let (bridge_idx, port_idx, name) = if request.name().starts_with(name::PREFIX) {
        let given = request.name().to_vec();
        all.into_iter().find(|(.., name)| name.as_bytes() == given).ok_or(Errno::ENOENT)?
    } else {
        let from = (asked.bridge_idx, asked.port_idx);
        let mut all: Vec<_> = all.filter(|&(i, j, _)| (i, j) >= from).collect();
        all.sort();
        all.into_iter().next().ok_or(Errno::ENOENT)?
    };
    request.answer_name(&name)?;
    request.answer(ValeList { bridge_idx, pad: 0, port_idx })
}

fn interface(request: &Request) -> Result<String, Errno> {
    let given = request.name();
    if given.is_empty() || given.len() >= IFNAMSIZ || given.starts_with(name::PREFIX) {
        return Err(Errno::EINVAL);
    }
    let name = String::from_utf8(given.to_vec()).map_err(|_| Errno::EINVAL)?;
    if !name.bytes().all(name::is_word) {
        return Err(Errno::EINVAL);
    }
    Ok(name)
}

fn parse(name: &str) -> Result<PortName, Errno> {
    name.parse().map_err(|_| Errno::EINVAL)
}

/// VALE_NEWIF.
pub fn newif(request: &mut Request) -> Result<(), Errno> {
    let asked: ValeNewif = request.body()?;
    let name = interface(request)?;
    if find(&name)?.is_some() {
        return Err(Errno::EEXIST);
    }
    let options = Options {
        tx_slots: register::slots(asked.tx_slots),
        rx_slots: register::slots(asked.rx_slots),
        tx_rings: register::rings(asked.tx_rings),
        rx_rings: register::rings(asked.rx_rings),
        memory: register::memory(asked.mem_id),
        ..Options::default()
    };
    let name = parse(&format!("{UNATTACHED}:{name}"))?;
    control::create_port(&name, &options).map_err(|e| errno(&e))
}

/// VALE_DELIF.
pub fn delif(request: &mut Request) -> Result<(), Errno> {
    if let Ok(full) = name::of_switch(request.name())
        && port(&full)?.is_some()
    {
        return Err(Errno::EINVAL); // it goes with its last descriptor
    }
    let name = interface(request).map_err(|_| Errno::ENXIO)?;
    let (switch, _) = find(&name)?.ok_or(Errno::ENXIO)?;
    if switch != UNATTACHED {
        return Err(Errno::EBUSY);
    }
    control::delete_port(&parse(&format!("{switch}:{name}"))?).map_err(|e| errno(&e))
}

/// Moves a persistent port that nobody uses to another switch.
fn relocate(from: &PortName, to: &PortName, info: &PortInfo) -> Result<(), Errno> {
    if !info.users.is_empty() {
        return Err(Errno::EBUSY);
    }
    let options = Options {
        tx_slots: Some(info.tx_slots),
        rx_slots: Some(info.rx_slots),
        tx_rings: Some(info.tx_rings),
        rx_rings: Some(info.rx_rings),
        ..Options::default()
    };
    control::create_port(to, &options).map_err(|e| match e {
        Error::Exists { .. } => Errno::EBUSY,
        e => errno(&e),
    })?;
    control::delete_port(from).map_err(|e| errno(&e))
}

/// VALE_ATTACH: of a persistent port, or of a NIC or tap through a bridge, also of a NIC with its host.
pub fn attach(request: &mut Request) -> Result<(), Errno> {
    let mut body: ValeAttach = request.body()?;
    if !matches!(body.register.mode, mode::ALL_NIC | mode::NIC_SW) {
        return Err(Errno::EINVAL);
    }
    let name = name::of_switch(request.name())?;
    let at = name.switch_port().ok_or(Errno::EINVAL)?;
    if port(&name)?.is_some() {
        return Err(Errno::EBUSY);
    }
    match find(at.port)? {
        Some((switch, info)) if switch == UNATTACHED => {
            relocate(&parse(&format!("{switch}:{}", at.port))?, &name, &info)?;
        }
        Some(_) => return Err(Errno::EBUSY),
        None => {
            let with_host: &[&str] = &["attach", "--host"];
            let words = if body.register.mode == mode::NIC_SW { with_host } else { &["attach"] };
            spawn::vale_ctl(words, &name.to_string())?;
        }
    }
    body.port_index = port(&name)?.map_or(0, |port| port.index.into());
    let (direction, none) = (Direction::Neither, Options::default());
    let attached = register::open(&name, &Options { direction, ..none })?;
    body.register.mem_id = attached.layout().map_or(0, |layout| layout.mem_id);
    request.answer(body)
}

/// VALE_DETACH.
pub fn detach(request: &mut Request) -> Result<(), Errno> {
    let _: ValeDetach = request.body()?;
    let name = name::of_switch(request.name())?;
    let at = name.switch_port().ok_or(Errno::EINVAL)?;
    let info = port(&name)?.ok_or(Errno::ENXIO)?;
    if info.persistent {
        relocate(&name, &parse(&format!("{UNATTACHED}:{}", at.port))?, &info)?;
    } else {
        // Only what was attached: others close their ports themselves.
        spawn::vale_ctl(&["detach"], &name.to_string()).map_err(|_| Errno::EBUSY)?;
    }
    request.answer(ValeDetach { port_index: info.index.into(), pad: 0 })
}

/// VALE_POLLING_ENABLE and _DISABLE, of an interface that a bridge attached.
pub fn polling(request: &mut Request) -> Result<(), Errno> {
    let asked: ValePolling = request.body()?;
    let name = name::of_switch(request.name())?;
    if port(&name)?.is_none() {
        return Err(Errno::ENXIO);
    }
    let cpu = format!("--cpu={}", asked.first_cpu);
    let words: &[&str] = if request.header.reqtype == reqtype::VALE_POLLING_ENABLE {
        &["poll", "start", &cpu]
    } else {
        &["poll", "stop"]
    };
    // Other ports have no bridge that could busy-wait.
    spawn::vale_ctl(words, &name.to_string()).map_err(|_| Errno::EOPNOTSUPP)
}
