//! Puts together what comes in while the reader is at work, so that it is programmed together.

use std::collections::BTreeSet;

use tokio::sync::mpsc::{Receiver, Sender};

use crate::{model::Event, source::Update};

/// Events that are put together at most; beyond, the watches wait.
const MOST: usize = 100_000;

/// What a watch has to say.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Changes.
    pub update: Update,
    /// The kind whose list is complete with it.
    pub listed: Option<&'static str>,
}

impl Part {
    pub(super) const fn is_empty(&self) -> bool {
        self.update.is_empty() && self.listed.is_none()
    }
}

/// Hands on updates; ends with either side. When the first list of every kind is in, [`Event::Synced`] is added.
pub(super) async fn merge(
    mut parts: Receiver<Part>,
    updates: &Sender<Update>,
    kinds: &[&'static str],
) {
    let mut missing: BTreeSet<&str> = kinds.iter().copied().collect();
    let mut heap = Update::default();
    loop {
        let more = tokio::select! {
            biased;
            part = parts.recv(), if heap.events.len() < MOST => part,
            permit = updates.reserve(), if !heap.is_empty() => match permit {
                Ok(permit) => {
                    permit.send(std::mem::take(&mut heap));
                    continue;
                }
                Err(_) => return,
            },
        };
        let Some(Part { update, listed }) = more else {
            if !heap.is_empty() {
                // Whoever listens no longer needs no rest.
                let _ = updates.send(heap).await;
            }
            return;
        };
        heap.events.extend(update.events);
        heap.problems.extend(update.problems);
        if let Some(kind) = listed
            && missing.remove(kind)
            && missing.is_empty()
        {
            heap.events.push(Event::Synced);
        }
    }
}
