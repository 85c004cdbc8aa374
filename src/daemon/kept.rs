//! The holder's part, as one program of the daemon hands it to the next.

use super::claims::{Claims, Mac};
use super::fitness::Fitness;
use super::guard::Keeper;
use super::holder::Holder;
use crate::cluster::vote::VoteId;
use crate::sys::clock::Instant;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// What goes over. What the keeper has reported and nobody has read waits in its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptHolder {
    ordered: Option<(VoteId, Instant)>,
    ended: Option<VoteId>,
    held: bool,
    held_since: Instant,
    gains: u64,
    refusals: u32,
    cordoned: bool,
    link_up: bool,
    standing_back: bool,
    fence: Option<i32>,
    claims: (u64, Option<Mac>),
}

impl KeptHolder {
    /// The hold that was ordered and has not ended, as far as it is known here.
    pub fn running(&self) -> Option<(VoteId, Instant)> {
        self.ordered.clone().filter(|(vote, _)| self.ended.as_ref() != Some(vote))
    }

    /// What speaks against holding, in a program that itself says `never` or not.
    pub fn fitness(&self, never: bool) -> Fitness {
        let Self { cordoned, link_up, standing_back, .. } = *self;
        Fitness { cordoned, link_up, standing_back, ..Fitness::new(never) }
    }

    /// Whether it was cordoned, also where the mark could not be written.
    pub fn is_cordoned(&self) -> bool {
        self.cordoned
    }

    /// Says what the new program has not heard yet.
    pub(super) fn put_into(&self, holder: &Holder) {
        holder.ordered.replace(self.ordered.clone());
        holder.ended.replace(self.ended.clone());
        holder.held.set(self.held);
        holder.held_since.set(self.held_since);
        holder.gains.set(self.gains);
        holder.refusals.set(self.refusals);
        holder.fence.set(self.fence);
    }

    pub(super) fn claims(&self) -> Claims {
        Claims::of(self.claims.0, self.claims.1)
    }
}

impl Holder {
    /// What goes over at this instant.
    ///
    /// # Errors
    /// Why it can't be now.
    pub fn keep(&self) -> Result<KeptHolder, &'static str> {
        let fitness = self.fitness.get();
        if fitness.keeper != Keeper::Well {
            return Err("its keeper hangs or has ended");
        }
        if self.is_over() {
            return Err("it is stopping");
        }
        Ok(KeptHolder {
            ordered: self.ordered.borrow().clone(),
            ended: self.ended.borrow().clone(),
            held: self.held.get(),
            held_since: self.held_since.get(),
            gains: self.gains.get(),
            refusals: self.refusals.get(),
            cordoned: fitness.cordoned,
            link_up: fitness.link_up,
            standing_back: fitness.standing_back,
            fence: self.fence.get(),
            claims: self.claims.kept(),
        })
    }

    /// Goes on where the program before was, before any task of the holder runs.
    pub(super) fn go_on_from(self: &Rc<Self>, kept: &KeptHolder) {
        kept.put_into(self);
        if kept.standing_back {
            self.stand_back_again();
        }
        // As at the first `Hold`: what serves the VIP must serve again before anything comes.
        self.control.holding(kept.running().is_some());
    }
}
