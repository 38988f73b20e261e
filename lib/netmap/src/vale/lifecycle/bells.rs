//! The bells that a process has open for ringing, the ones that it rang last.
//!
//! Invariant: there are few, however many handles a switch has, so that descriptors do not run out; one
//! more costs an opening by name. A bell is known by the handle's identity, so that an index that is used
//! again leads to the new bell.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::shm::bell::Bell;
use crate::shm::dir::Dir;
use crate::shm::{fork, spare};
use crate::vale::state::handles::bell_file;
use crate::vale::state::handleset::Rung;
use crate::vale::state::ids::HandleId;

/// Bells that stay open.
const OPEN: usize = 16;

/// The bells of one switch, rung last at the end.
#[derive(Debug, Default)]
pub struct Bells(Mutex<Vec<(HandleId, Arc<Bell>)>>);

impl Bells {
    /// Rings the handle `id`.
    pub fn ring(&self, dir: &Dir, id: HandleId) -> Rung {
        match self.find(dir, id) {
            Ok(bell) => {
                bell.ring();
                // One that was not kept has the place of the spare descriptor.
                if Arc::into_inner(bell).is_some() {
                    let _ = spare::restore();
                }
                Rung::Yes
            }
            Err(e) if e.is_shortage() => Rung::Later,
            // It has gone, or a peer has put something else in its place.
            Err(_) => Rung::Nobody,
        }
    }

    fn find(&self, dir: &Dir, id: HandleId) -> Result<Arc<Bell>> {
        let _section = fork::section();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(known, _)| *known == id) {
            open[at..].rotate_left(1);
            let (_, bell) = open.last().expect("it was found there");
            return Ok(bell.clone());
        }
        let bell = Arc::new(Bell::open(dir, &bell_file(id.index))?);
        // An earlier handle of that index has gone.
        open.retain(|(known, _)| known.index != id.index);
        if open.len() >= OPEN {
            open.remove(0);
        }
        if spare::restore() {
            open.push((id, bell.clone()));
        }
        Ok(bell)
    }
}
