//! The bytes, held against linux/netfilter/nf_tables.h by hand.
#![cfg(target_endian = "little")]

use super::batch::ROOM;
use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
const LONGEST: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777));

#[rustfmt::skip]
const BEGIN: [u8; 20] = [20, 0, 0, 0, 0x10, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]; // NFNL_MSG_BATCH_BEGIN, subsystem 10
/// NFTA_*_TABLE "kube-vip_10.0.0.9".
const NAME: [u8; 24] = *b"\x16\0\x01\0kube-vip_10.0.0.9\0\0\0";

fn end(seq: u8) -> [u8; 20] {
    let mut end = BEGIN;
    (end[4], end[8]) = (0x11, seq);
    end
}

#[test]
fn arming_is_byte_exact() {
    let b = Table::new(V4, "eth0").arm(7, 190);
    #[rustfmt::skip]
    let want = [
        &BEGIN[..],
        &[76, 0, 0, 0, 12, 10, 0x01, 0x04, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0], // NFT_MSG_NEWSETELEM, REQUEST|CREATE, family netdev
        &NAME, b"\x0c\0\x02\0guarded\0",                                        // NFTA_SET_ELEM_LIST_SET
        &[20, 0, 3, 0x80, 16, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 9], // ELEMENTS, ELEM, KEY, VALUE
        &[56, 0, 0, 0, 14, 10, 0x01, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0],    // NFT_MSG_DELSETELEM without elements: all
        &NAME, b"\x09\0\x02\0held\0\0\0\0",
        &[88, 0, 0, 0, 12, 10, 0x05, 0x06, 10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0], // REQUEST|ACK|EXCL|CREATE
        &NAME, b"\x09\0\x02\0held\0\0\0\0",
        &[32, 0, 3, 0x80, 28, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 9],
        &[12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 190],                                // NFTA_SET_ELEM_TIMEOUT, 64 bits, big endian
        &end(11),
    ].concat();
    assert_eq!(b.as_bytes(), want.as_slice());
    assert!(b.has(7) && b.has(11) && !b.has(6) && !b.has(12));
    assert_eq!(b.next_seq(), 12);
}

/// Each message's type and flags.
fn messages(b: &Batch) -> Vec<(u16, u16)> {
    let (mut rest, mut all) = (b.as_bytes(), Vec::new());
    while let [a, b, c, d, kind, subsystem, flags, more, ..] = *rest {
        all.push((u16::from_le_bytes([kind, subsystem]), u16::from_le_bytes([flags, more])));
        rest = &rest[u32::from_le_bytes([a, b, c, d]) as usize..];
    }
    assert!(rest.is_empty(), "the lengths add up");
    all
}

#[test]
fn without_time_left_only_the_guard_is_set() {
    let b = Table::new(V4, "eth0").arm(1, 0);
    assert_eq!(messages(&b), [(0x10, 1), (0x0a0c, 0x405), (0x11, 1)]);
}

#[test]
fn clearing_empties_both_sets_and_removing_deletes_the_table() {
    let t = Table::new(V4, "eth0");
    assert_eq!(messages(&t.clear(1)), [(0x10, 1), (0x0a0e, 1), (0x0a0e, 5), (0x11, 1)]);
    let b = t.remove(7);
    let message = [44, 0, 0, 0, 2, 10, 0x05, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0];
    assert_eq!(b.as_bytes(), [&BEGIN[..], &message, &NAME, &end(9)].concat());
}

#[test]
fn a_table_is_made_whole_in_place_of_an_old_one() {
    for vip in [V4, LONGEST] {
        let t = Table::new(vip, "eth0");
        let (new, del, set, chain, rule) = (0x0a00, 0x0a02, 0x0a09, 0x0a03, 0x0a06);
        let kinds = |egress| messages(&t.install(1, egress)).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        let head = [0x10, new, del, new, set, set, chain, rule, rule];
        assert_eq!(kinds(false), [&head[..], &[new, 0x11]].concat());
        assert_eq!(kinds(true), [&head[..], &[chain, rule, rule, new, 0x11]].concat());
        let acked = |batch: Batch| messages(&batch).iter().filter(|(_, flags)| flags & ACK != 0).count();
        for batch in [t.install(1, true), t.install(1, false), t.arm(1, 0), t.arm(1, 9), t.clear(1), t.remove(1)] {
            assert_eq!(acked(batch), 1, "one answer where all went well");
        }
    }
}

#[test]
fn the_longest_batch_fits() {
    let len = Table::new(LONGEST, "fifteen-letters").install(u32::MAX, true).as_bytes().len();
    assert!(len < ROOM, "{len} bytes would be cut");
    assert!(len > ROOM / 2, "{len} bytes: the room is far too large");
}

#[test]
fn names_are_one_to_one_and_plain() {
    let name = |text: &str| table_name(text.parse().expect("an address"));
    assert_eq!(name("10.0.0.9"), "kube-vip_10.0.0.9");
    assert_eq!(name("fd00::1:9"), "kube-vip_fd00__1_9");
    assert_eq!(name("::ffff:10.0.0.9"), "kube-vip___ffff_10.0.0.9");
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    assert!(table_name(LONGEST).chars().all(word) && table_name(LONGEST).len() < 64);
}

#[test]
fn numbering_goes_over_its_end() {
    let b = Table::new(V4, "eth0").arm(u32::MAX - 1, 50);
    assert!(b.has(u32::MAX) && b.has(0) && b.has(2) && !b.has(3) && b.next_seq() == 3);
}
