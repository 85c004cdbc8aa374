//! The first election of a fresh cluster: who writes the first membership.
//!
//! Every node that initialises writes the same list at the same place of the log, so two of them do no harm; that only one
//! does spares a round of votes.

use crate::cluster::types::NodeId;

/// A member as this node knows it when the quiet start has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Whether it said that it has neither vote nor log; none: it did not answer.
    pub empty: Option<bool>,
    /// `startAsLeader`.
    pub starts: bool,
}

/// Whether `me` writes the first membership now: a majority (itself included) answered, all that answered are empty, and it is
/// the first of them (`startAsLeader` first, then the lowest id).
pub fn initialises(me: &NodeId, members: &[Member]) -> bool {
    let answered: Vec<&Member> = members.iter().filter(|m| m.empty.is_some()).collect();
    let majority = answered.len() * 2 > members.len();
    let all_empty = answered.iter().all(|m| m.empty == Some(true));
    let first = answered.iter().min_by_key(|m| (!m.starts, &m.id));
    majority && all_empty && first.is_some_and(|m| m.id == *me)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn m(id: &str, empty: Option<bool>, starts: bool) -> Member {
        Member { id: NodeId::new(id).unwrap(), empty, starts }
    }

    #[test]
    fn the_first_of_an_empty_majority() {
        let (e, no) = (Some(true), false);
        let cases: [(&str, Vec<Member>, &str); 7] = [
            ("all empty", vec![m("a", e, no), m("b", e, no), m("c", e, no)], "a"),
            ("lowest id silent", vec![m("a", None, no), m("b", e, no), m("c", e, no)], "b"),
            ("the hint wins", vec![m("a", e, no), m("b", e, true), m("c", e, no)], "b"),
            ("no majority", vec![m("a", e, no), m("b", None, no), m("c", None, no)], ""),
            ("half is no majority", vec![m("a", e, no), m("b", e, no), m("c", None, no), m("d", None, no)], ""),
            ("a member has a log", vec![m("a", e, no), m("b", Some(false), no), m("c", e, no)], ""),
            ("two nodes", vec![m("a", e, no), m("b", e, no)], "a"),
        ];
        for (name, members, who) in cases {
            for member in &members {
                let id = &member.id;
                assert_eq!(initialises(id, &members), id.to_string() == who, "{name}: {id}");
            }
        }
    }
}
