//! The bells that a process has open for ringing, the ones that it rang last.
//!
//! Invariant: there are few, however many handles a switch has, so that descriptors do not run out; one
//! more costs an opening by name. A bell is known by the handle's identity, so that an index that is used
//! again leads to the new bell.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::shm::bell::Bell;
use crate::shm::dir::Dir;
use crate::shm::spare;
use crate::vale::state::switch::{HandleId, ListedHandle, bell_file};

/// Bells that stay open.
const OPEN: usize = 16;

/// The bells of one switch, rung last at the end.
#[derive(Debug, Default)]
pub struct Bells(Mutex<Vec<(HandleId, Arc<Bell>)>>);

impl Bells {
    /// Rings a handle. False: that failed for want of something, and may work another time.
    pub fn ring(&self, dir: &Dir, handle: &ListedHandle) -> bool {
        match self.find(dir, handle) {
            Ok(bell) => {
                bell.ring();
                drop(bell);
                let _ = spare::restore();
                true
            }
            // Nobody sleeps there any more, or a peer has put something else in its place.
            Err(Error::Io { source, .. }) => source.kind() == std::io::ErrorKind::NotFound,
            Err(_) => true,
        }
    }

    fn find(&self, dir: &Dir, handle: &ListedHandle) -> Result<Arc<Bell>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(id, _)| *id == handle.id) {
            open[at..].rotate_left(1);
            let (_, bell) = open.last().expect("it was found there");
            return Ok(bell.clone());
        }
        let bell = Arc::new(Bell::open(dir, &bell_file(handle.index))?);
        // An earlier handle of that index has gone.
        open.retain(|(id, _)| *id as u16 != handle.id as u16);
        if open.len() >= OPEN {
            open.remove(0);
        }
        if spare::restore() {
            open.push((handle.id, bell.clone()));
        }
        Ok(bell)
    }
}
