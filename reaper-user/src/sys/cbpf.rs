//! Classic BPF programs that drop exits of unwatched processes before they enter the socket's
//! queue. Pure.
//!
//! A program reads the datagram from its netlink header on. Its loads are big-endian on every
//! machine, so constants are converted to what a big-endian load of the machine's bytes gives. A
//! load beyond the end drops the message. What passes:
//!
//! * acknowledgements (`what` = 0), because the subscription waits for one;
//! * exits, of any thread, of the given thread groups. Never "pid = tgid": the last thread to leave
//!   need not be the main one.
//!
//! One program has [`MAX_EXACT`] thread groups, found by a binary search, so that the exit of an
//! unwatched process costs about twenty comparisons and not thousands. Beyond that, [`buckets`]
//! passes a superset: a bitmap over the low bits of the pid, written as code. An unwatched process
//! in a used bucket costs one wake-up; a watched one always passes.

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_IMM, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K,
    BPF_LD, BPF_LSH, BPF_MEM, BPF_MISC, BPF_NEG, BPF_OR, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX, BPF_W,
    BPF_X, sock_filter,
};

use crate::sys::cn_proc::{EXIT_TGID_AT, WHAT_ACK, WHAT_AT, WHAT_EXIT};

/// The kernel's limit of instructions (`BPF_MAXINSNS`).
#[cfg(test)]
const MAX_INSTRUCTIONS: usize = 4096;
/// How many thread groups [`exact`] accepts. Each leaf of n costs n + 2 instructions and each inner
/// node two. At worst leaves are half of [`LEAF`], which makes 1.25 per thread group.
pub(crate) const MAX_EXACT: usize = 3_200;
/// How many thread groups are compared one by one.
const LEAF: usize = 32;
/// The most bits of a bucket number with which [`buckets`] fits.
pub(crate) const MAX_BUCKET_BITS: u32 = 15;

const DROP: u32 = 0;
const PASS: u32 = u32::MAX;
/// Placeholder for a jump distance that is not known yet.
const TO_THE_TAIL: u32 = u32::MAX;

/// Passes acknowledgements and all exits.
pub(crate) fn all_exits() -> Vec<sock_filter> {
    let mut program = only_exits();
    program.push(ret(PASS));
    program
}

/// Passes acknowledgements and the exits of exactly these thread groups: at most [`MAX_EXACT`].
pub(crate) fn exact(tgids: impl IntoIterator<Item = u32>) -> Vec<sock_filter> {
    let mut constants: Vec<u32> = tgids.into_iter().map(as_loaded).collect();
    constants.sort_unstable();
    constants.dedup();
    assert!(
        constants.len() <= MAX_EXACT,
        "the caller keeps to MAX_EXACT"
    );
    let mut program = only_exits();
    program.push(stmt(BPF_LD | BPF_W | BPF_ABS, EXIT_TGID_AT));
    program.extend(search(&constants));
    program
}

/// Passes acknowledgements and the exits of all thread groups that share a bucket with one of
/// these.
pub(crate) fn buckets(tgids: impl IntoIterator<Item = u32>, bits: u32) -> Vec<sock_filter> {
    assert!(
        (6..=MAX_BUCKET_BITS).contains(&bits),
        "the caller picks a size that fits"
    );
    let mut words = vec![0_u32; 1 << (bits - 5)];
    for tgid in tgids {
        let bucket = bucket(tgid, bits);
        words[bucket as usize / 32] |= 1 << (bucket % 32);
    }
    let mut program = only_exits();
    // A = the bucket, from the two low bytes of the pid; then X = the bit in its word and A = the
    // index of the word.
    program.extend([
        stmt(BPF_LD | BPF_B | BPF_ABS, tgid_byte(1)),
        stmt(BPF_ALU | BPF_LSH | BPF_K, 8),
        stmt(BPF_MISC | BPF_TAX, 0),
        stmt(BPF_LD | BPF_B | BPF_ABS, tgid_byte(0)),
        stmt(BPF_ALU | BPF_OR | BPF_X, 0),
        stmt(BPF_ALU | BPF_AND | BPF_K, (1 << bits) - 1),
        stmt(BPF_ST, 0),
        stmt(BPF_ALU | BPF_AND | BPF_K, 31),
        stmt(BPF_MISC | BPF_TAX, 0),
        stmt(BPF_LD | BPF_W | BPF_MEM, 0),
        stmt(BPF_ALU | BPF_RSH | BPF_K, 5),
    ]);
    let mut table = select(&words, 0);
    let end = table.len();
    for (at, instruction) in table.iter_mut().enumerate() {
        if u32::from(instruction.code) == BPF_JMP | BPF_JA && instruction.k == TO_THE_TAIL {
            instruction.k = offset(end - at - 1);
        }
    }
    program.extend(table);
    // A = all ones if the bit is set, which is how much of the message to keep; else zero.
    program.extend([
        stmt(BPF_ALU | BPF_RSH | BPF_X, 0),
        stmt(BPF_ALU | BPF_AND | BPF_K, 1),
        stmt(BPF_ALU | BPF_NEG, 0),
        stmt(BPF_RET | BPF_A, 0),
    ]);
    program
}

/// Returns the bucket of a thread group: its low bits, because pids that are close start together.
pub(crate) fn bucket(tgid: u32, bits: u32) -> u32 {
    tgid & ((1 << bits) - 1)
}

/// Drops all but acknowledgements and exits. An acknowledgement passes here; what follows decides
/// exits.
fn only_exits() -> Vec<sock_filter> {
    vec![
        stmt(BPF_LD | BPF_W | BPF_ABS, WHAT_AT),
        jump(BPF_JEQ, as_loaded(WHAT_ACK), 1, 0),
        jump(BPF_JEQ, as_loaded(WHAT_EXIT), 2, 1),
        ret(PASS),
        ret(DROP),
    ]
}

/// Passes if A is one of these constants, which are sorted.
fn search(constants: &[u32]) -> Vec<sock_filter> {
    if constants.len() > LEAF {
        let (left, right) = constants.split_at(constants.len() / 2);
        return branch(right[0], search(left), search(right));
    }
    let mut program: Vec<_> = (1..=LEAF)
        .rev()
        .skip(LEAF - constants.len())
        .zip(constants)
        .map(|(to_pass, constant)| jump(BPF_JEQ, *constant, to_pass, 0))
        .collect();
    program.push(ret(DROP));
    program.push(ret(PASS));
    program
}

/// Loads the word with index A, where the first of these has the index `first`, and goes to the
/// tail.
fn select(words: &[u32], first: u32) -> Vec<sock_filter> {
    if words.iter().all(|word| *word == words[0]) {
        return match words[0] {
            0 => vec![ret(DROP)],
            u32::MAX => vec![ret(PASS)],
            word => vec![
                stmt(BPF_LD | BPF_IMM, word),
                stmt(BPF_JMP | BPF_JA, TO_THE_TAIL),
            ],
        };
    }
    let (left, right) = words.split_at(words.len() / 2);
    let middle = first + offset(left.len());
    branch(middle, select(left, first), select(right, middle))
}

/// Goes right if A >= `from`, else left. A conditional jump spans 255 instructions at most.
fn branch(from: u32, left: Vec<sock_filter>, right: Vec<sock_filter>) -> Vec<sock_filter> {
    let mut program = if left.len() <= 255 {
        vec![jump(BPF_JGE, from, left.len(), 0)]
    } else {
        vec![
            jump(BPF_JGE, from, 0, 1),
            stmt(BPF_JMP | BPF_JA, offset(left.len())),
        ]
    };
    program.extend(left);
    program.extend(right);
    program
}

fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).expect("an operation code"),
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(condition: u32, k: u32, jt: usize, jf: usize) -> sock_filter {
    let [jt, jf] = [jt, jf].map(|to| u8::try_from(to).expect("branch() keeps jumps short"));
    sock_filter {
        jt,
        jf,
        ..stmt(BPF_JMP | condition | BPF_K, k)
    }
}

fn ret(k: u32) -> sock_filter {
    stmt(BPF_RET | BPF_K, k)
}

fn offset(instructions: usize) -> u32 {
    u32::try_from(instructions).expect("programs are short")
}

/// Returns the result of a big-endian load of an integer in this machine's byte order.
fn as_loaded(native: u32) -> u32 {
    u32::from_be_bytes(native.to_ne_bytes())
}

/// Returns the offset of byte `significance` (0: the lowest) of the thread group.
fn tgid_byte(significance: u32) -> u32 {
    EXIT_TGID_AT
        + if cfg!(target_endian = "little") {
            significance
        } else {
            3 - significance
        }
}

#[cfg(test)]
#[path = "cbpf/tests.rs"]
mod tests;
