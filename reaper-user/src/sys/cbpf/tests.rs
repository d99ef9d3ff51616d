//! The programs, run by a small interpreter. The tests of the netlink source run them in the
//! kernel.

use std::collections::BTreeSet;

use libc::{BPF_ALU as ALU, BPF_MEM as MEM};
use proptest::prelude::*;

use super::*;

/// Runs a program as the kernel would. Panics on anything the kernel would refuse.
fn run(program: &[sock_filter], datagram: &[u8]) -> u32 {
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; 16]);
    let mut at = 0;
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let code = u32::from(code);
        at += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        if code == BPF_LD | BPF_W | BPF_ABS {
            let Some(word) = datagram.get(k as usize..k as usize + 4) else {
                return 0;
            };
            a = u32::from_be_bytes(word.try_into().unwrap());
        } else if code == BPF_LD | BPF_B | BPF_ABS {
            let Some(byte) = datagram.get(k as usize) else {
                return 0;
            };
            a = u32::from(*byte);
        } else if code == BPF_LD | BPF_IMM {
            a = k;
        } else if code == BPF_LD | BPF_W | MEM {
            a = memory[k as usize];
        } else if code == BPF_ST {
            memory[k as usize] = a;
        } else if code == BPF_MISC | BPF_TAX {
            x = a;
        } else if code == BPF_JMP | BPF_JA {
            at += k as usize;
        } else if code == BPF_JMP | BPF_JEQ | BPF_K {
            at += branch(a == k);
        } else if code == BPF_JMP | BPF_JGE | BPF_K {
            at += branch(a >= k);
        } else if code == ALU | BPF_LSH | BPF_K {
            a <<= k;
        } else if code == ALU | BPF_RSH | BPF_K {
            a >>= k;
        } else if code == ALU | BPF_RSH | BPF_X {
            a >>= x;
        } else if code == ALU | BPF_AND | BPF_K {
            a &= k;
        } else if code == ALU | BPF_OR | BPF_X {
            a |= x;
        } else if code == ALU | BPF_NEG {
            a = a.wrapping_neg();
        } else if code == BPF_RET | BPF_K {
            return k;
        } else if code == BPF_RET | BPF_A {
            return a;
        } else {
            panic!("instruction {code:#x}");
        }
    }
}

fn datagram(what: u32, tgid: u32) -> Vec<u8> {
    let mut datagram = vec![0xa5; 76];
    datagram[36..40].copy_from_slice(&what.to_ne_bytes());
    datagram[56..60].copy_from_slice(&tgid.to_ne_bytes());
    datagram
}

/// Returns whether the whole message passes. A program must never truncate a message.
fn passes(program: &[sock_filter], what: u32, tgid: u32) -> bool {
    match run(program, &datagram(what, tgid)) {
        0 => false,
        u32::MAX => true,
        cut => panic!("cut to {cut} bytes"),
    }
}

fn check(program: &[sock_filter], watched: &BTreeSet<u32>, unrelated: impl Fn(u32) -> bool) {
    assert!(
        program.len() <= MAX_INSTRUCTIONS,
        "{} instructions",
        program.len()
    );
    assert!(passes(program, WHAT_ACK, 1), "an acknowledgement must pass");
    for what in [1, 2, 4, 0x40, 0x80, 0x100, 0x200, 0x4000_0000] {
        assert!(
            !passes(program, what, *watched.first().unwrap_or(&1)),
            "event {what:#x}"
        );
    }
    for tgid in watched {
        assert!(passes(program, WHAT_EXIT, *tgid), "watched {tgid}");
        for near in [
            tgid - 1,
            tgid + 1,
            tgid.swap_bytes(),
            tgid ^ 0x100,
            tgid ^ 0x1_0000,
        ] {
            let expected = watched.contains(&near) || unrelated(near);
            assert_eq!(
                passes(program, WHAT_EXIT, near),
                expected,
                "neighbour {near}"
            );
        }
    }
    assert_eq!(run(program, &datagram(WHAT_EXIT, 1)[..39]), 0, "too short");
}

fn tgids(count: usize, step: u32) -> BTreeSet<u32> {
    (1..)
        .step_by(step as usize)
        .take(count)
        .map(|n| n % 4_194_304)
        .collect()
}

#[test]
fn exact_programs_pass_exactly_the_watched() {
    for (count, step) in [
        (0, 1),
        (1, 1),
        (2, 255),
        (32, 1),
        (33, 1),
        (34, 257),
        (700, 3),
        (3_200, 1),
    ] {
        let watched = tgids(count, step);
        check(&exact(watched.iter().copied()), &watched, |_| false);
    }
}

#[test]
fn exact_programs_fit_at_every_size() {
    for count in 0..=MAX_EXACT {
        let constants: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
        assert!(
            only_exits().len() + 1 + search(&constants).len() <= MAX_INSTRUCTIONS,
            "{count}"
        );
    }
}

#[test]
fn bucket_programs_pass_all_of_a_used_bucket() {
    for (count, step, bits) in [
        (0, 1, 6),
        (1, 1, 15),
        (5_000, 7, 15),
        (20_000, 1, 15),
        (20_000, 201, 15),
        (40_000, 3, 11),
    ] {
        let watched = tgids(count, step);
        let full: BTreeSet<u32> = watched.iter().map(|tgid| bucket(*tgid, bits)).collect();
        let program = buckets(watched.iter().copied(), bits);
        check(&program, &watched, |near| {
            full.contains(&bucket(near, bits))
        });
    }
}

#[test]
fn the_worst_bitmap_fits() {
    // Every word differs from its neighbour and none is full or empty.
    let watched = (0..1_024_u32).flat_map(|word| {
        (0..10).filter_map(move |bit| (word >> bit & 1 == 1).then_some(word * 32 + bit))
    });
    let program = buckets(
        watched.chain((0..1_024).map(|word| word * 32 + 20)),
        MAX_BUCKET_BITS,
    );
    assert!(
        (3_000..=MAX_INSTRUCTIONS).contains(&program.len()),
        "{}",
        program.len()
    );
}

#[test]
fn all_exits_pass_a_wide_filter() {
    let program = all_exits();
    assert!(passes(&program, WHAT_EXIT, 7) && passes(&program, WHAT_ACK, 7));
    assert!(!passes(&program, 1, 7));
}

proptest! {
    #[test]
    fn no_watched_exit_is_ever_dropped(
        watched in prop::collection::btree_set(1_u32..4_194_304, 0..400),
        unrelated in prop::collection::vec(1_u32..4_194_304, 20),
        bits in 6..=MAX_BUCKET_BITS,
    ) {
        let precise = exact(watched.iter().copied());
        let coarse = buckets(watched.iter().copied(), bits);
        for tgid in &watched {
            prop_assert!(passes(&precise, WHAT_EXIT, *tgid));
            prop_assert!(passes(&coarse, WHAT_EXIT, *tgid));
        }
        for tgid in unrelated {
            prop_assert_eq!(passes(&precise, WHAT_EXIT, tgid), watched.contains(&tgid));
        }
    }
}
