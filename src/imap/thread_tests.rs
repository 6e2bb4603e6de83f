//! Threads of small mailboxes, and a naive form of the algorithm.

use super::*;
use crate::imap::{sort, subject};
use proptest::prelude::*;

fn message(number: u32, date: i64, subject: &str, id: &str, references: &[&str]) -> Message {
    Message {
        number,
        date,
        subject: sort::base_subject(Some(subject.as_bytes())),
        is_reply: subject::base(subject.as_bytes()).is_reply,
        id: id.as_bytes().into(),
        references: references.iter().map(|r| r.as_bytes().into()).collect(),
    }
}

fn text(forest: &Forest) -> String {
    let mut out = Vec::new();
    forest.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn ordered_subjects() {
    let all = [
        message(1, 30, "b", "", &[]),
        message(2, 10, "Re: a", "", &[]),
        message(3, 20, "a", "", &[]),
        message(4, 5, "c", "", &[]),
        message(5, 40, "[x] a", "", &[]),
        message(6, 41, "re: b", "", &[]),
    ];
    assert_eq!(text(&ordered_subject(&all)), "(4)(2 (3)(5))(1 6)");
    assert_eq!(text(&ordered_subject(&[])), "");
}

#[test]
fn chains_and_branches() {
    let all = [
        message(1, 1, "s", "a", &[]),
        message(2, 2, "re: s", "b", &["a"]),
        message(3, 3, "re: s", "c", &["a", "b"]),
        message(4, 4, "re: s", "d", &["a"]),
        message(5, 5, "other", "e", &[]),
    ];
    assert_eq!(text(&references(&all)), "(1 (2 3)(4))(5)");
}

#[test]
fn parents_that_are_not_there() {
    let all = [
        message(1, 1, "x", "a", &["gone"]),
        message(2, 2, "y", "b", &["gone"]),
        message(3, 3, "z", "c", &["gone", "gone too"]),
        message(4, 4, "w", "d", &["lost"]),
    ];
    assert_eq!(text(&references(&all)), "((1)(2)(3))(4)");
    // Between: the chain goes through what is not there.
    let all = [message(1, 1, "s", "a", &[]), message(2, 2, "s", "b", &["a", "gone"])];
    assert_eq!(text(&references(&all)), "(1 2)");
}

#[test]
fn subjects_bring_threads_together() {
    // A reply without references goes below the original.
    let all = [message(1, 1, "s", "a", &[]), message(2, 2, "Re: s", "b", &[])];
    assert_eq!(text(&references(&all)), "(1 2)");
    // Also if it is earlier.
    let all = [message(1, 1, "Re: s", "a", &[]), message(2, 2, "s", "b", &[])];
    assert_eq!(text(&references(&all)), "(2 1)");
    // Two of the same kind get a parent that is not there.
    let all = [message(1, 1, "s", "a", &[]), message(2, 2, "s", "b", &[]), message(3, 3, "S", "c", &[])];
    assert_eq!(text(&references(&all)), "((1)(2)(3))");
    // Empty subjects do not come together.
    let all = [message(1, 1, "", "a", &[]), message(2, 2, "Re:", "b", &[])];
    assert_eq!(text(&references(&all)), "(1)(2)");
    // A parent that is not there takes in others of its subject.
    let all = [
        message(1, 1, "s", "a", &["gone"]),
        message(2, 2, "s", "b", &["gone"]),
        message(3, 3, "s", "c", &[]),
        message(4, 4, "s", "d", &["gone too"]),
        message(5, 5, "s", "e", &["gone too"]),
    ];
    assert_eq!(text(&references(&all)), "((1)(2)(3)(4)(5))");
}

#[test]
fn loops_and_doubles() {
    let all = [
        message(1, 1, "x", "a", &["b"]),
        message(2, 2, "y", "b", &["a"]),
        message(3, 3, "z", "c", &["c"]),
        message(4, 4, "v", "a", &["c"]),
        message(5, 5, "w", "", &["a"]),
    ];
    assert_eq!(text(&references(&all)), "(2 1 5)(3 4)");
}

#[test]
fn message_ids() {
    let list = |v: &str| ids(v.as_bytes()).map(|i| i.escape_ascii().to_string()).collect::<Vec<_>>();
    assert_eq!(list("<a@b> (c) <\"d\"@e>\r\n <f\\g@h>"), ["a@b", "d@e", "fg@h"]);
    assert_eq!(list("no id <open <x>"), ["open<x"]);
    assert!(list("<> < >").is_empty());
}

/// Attack catalogue, row 27: long and tangled references.
#[test]
fn row_27_long_chains_neither_recurse_nor_take_for_ever() {
    let n = 200_000u32;
    let id = |i: u32| i.to_string();
    let all: Vec<Message> = (1..=n)
        .map(|i| {
            message(i, i64::from(i), &format!("s{i}"), &id(i), &[&id(i - 1), &id(i.wrapping_mul(7) % n)])
        })
        .collect();
    let forest = references(&all);
    assert_eq!(numbers_of(&forest).len(), n as usize);
    assert!(text(&forest).len() > n as usize);
    let chain: Vec<Message> = (1..=n).map(|i| message(i, i64::from(i), "", &id(i), &[&id(i - 1)])).collect();
    assert_eq!(text(&references(&chain)).split(' ').count(), n as usize);
}

fn numbers_of(forest: &Forest) -> Vec<u32> {
    let mut numbers: Vec<u32> = top_down(forest).iter().filter_map(|n| forest.numbers[*n as usize]).collect();
    numbers.sort_unstable();
    numbers
}

proptest! {
    #[test]
    fn every_message_is_there_once(
        raw in prop::collection::vec(
            (0i64..20, 0usize..4, any::<bool>(), 0u8..12, prop::collection::vec(0u8..12, 0..5)),
            0..25,
        ),
    ) {
        let all: Vec<Message> = raw
            .iter()
            .enumerate()
            .map(|(i, (date, subject, reply, id, refs))| {
                let before = if *reply { "re: " } else { "" };
                let subject = format!("{before}{}", ["", "x", "y", "z"][*subject]);
                let refs: Vec<String> = refs.iter().map(u8::to_string).collect();
                let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
                message(i as u32 + 1, *date, &subject, &id.to_string(), &refs)
            })
            .collect();
        for forest in [references(&all), ordered_subject(&all)] {
            let expect: Vec<u32> = (1..=all.len() as u32).collect();
            prop_assert_eq!(numbers_of(&forest), expect);
            let text = text(&forest);
            prop_assert_eq!(text.matches('(').count(), text.matches(')').count());
            for odd in ["()", "( ", " )", "  ", ")("] {
                prop_assert!(odd == ")(" || !text.contains(odd), "{}", text);
            }
        }
    }
}
