//! Random operations and settings.

use super::*;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Register(Live),
    Resolve(u64),
    Deregister(u64),
    /// Any session ever stored, mostly one that has been removed.
    RemoveEntry(u64),
    RemoveProcess(u64),
    Expire,
    AdvanceNanos(u64),
    /// Of one owner, or of all.
    Subscribe(Option<u32>),
    /// This many events back, or ahead if negative.
    Resume(i8, Option<u32>),
    Read {
        reader: usize,
        events: usize,
    },
    LearnStartTime(u64, u64),
    /// The registry is built again from its journal.
    Restart,
}

pub(super) fn any_op() -> impl Strategy<Value = Op> {
    let session = (
        0..IDS.len(),
        0..TOKENS,
        (0..PROCESSES, any_further()),
        OWNERS,
        any_ttl(),
        any_selected_by(),
        prop_oneof![3 => Just(0_usize), 1 => Just(3_000)],
    )
        .prop_map(|(id, token, process, owner, ttl, selected_by, cwd)| {
            unregistered(IDS[id], token, process, owner, ttl, selected_by, cwd)
        });
    let scope = || prop_oneof![Just(None), OWNERS.prop_map(Some)];
    let second = 1_000_000_000;
    prop_oneof![
        8 => session.prop_map(Op::Register),
        3 => (0..TOKENS).prop_map(Op::Resolve),
        2 => (0..TOKENS).prop_map(Op::Deregister),
        3 => (0..20_u64).prop_map(Op::RemoveEntry),
        2 => (0..PROCESSES).prop_map(Op::RemoveProcess),
        1 => Just(Op::Expire),
        2 => prop_oneof![Just(0), Just(1), Just(60 * second), Just(100 * second), 0..70 * second]
            .prop_map(Op::AdvanceNanos),
        1 => scope().prop_map(Op::Subscribe),
        1 => (-2..12_i8, scope()).prop_map(|(back, owner)| Op::Resume(back, owner)),
        3 => (0..4_usize, 1..6_usize).prop_map(|(reader, events)| Op::Read { reader, events }),
        1 => (0..20_u64, 1..3_u64).prop_map(|(entry, time)| Op::LearnStartTime(entry, time)),
        1 => Just(Op::Restart),
    ]
}

fn any_further() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec(0..PROCESSES, 1..4),
    ]
}

/// The mesh, and how many labels there are.
fn any_selected_by() -> impl Strategy<Value = (&'static str, u8)> {
    (
        prop_oneof![4 => Just("m"), 1 => Just("n")],
        prop_oneof![3 => Just(0_u8), 1 => 1..4_u8],
    )
}

fn any_ttl() -> impl Strategy<Value = Ttl> {
    prop_oneof![
        4 => Just(Ttl::Default),
        2 => (0..200_u64).prop_map(|seconds| Ttl::For(Duration::from_secs(seconds))),
        1 => Just(Ttl::Process),
    ]
}

/// The settings of a registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) strict: bool,
    pub(super) ttl: Option<u64>,
    pub(super) max_ttl: Option<u64>,
}

pub(super) fn any_rules() -> impl Strategy<Value = Rules> {
    let ttl = prop_oneof![4 => Just(Some(100)), 1 => Just(None)];
    let max_ttl = prop_oneof![3 => Just(None), 1 => Just(Some(60)), 1 => Just(Some(150))];
    (prop::bool::weighted(0.2), ttl, max_ttl).prop_map(|(strict, ttl, max_ttl)| Rules {
        strict,
        ttl,
        max_ttl,
    })
}
