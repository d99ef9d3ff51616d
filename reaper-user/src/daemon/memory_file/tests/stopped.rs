//! Random operations, and a stop after any number of writes within one of them.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Register(u8, u8, u64, usize),
    Deregister(u8),
    Die(u64),
    Expire,
    Report,
    Restart,
}

const IDS: [&str; 4] = ["a", "b", "c", "d"];

fn any_op() -> impl Strategy<Value = Op> {
    let cwd = prop_oneof![Just(0_usize), Just(100), Just(700)];
    prop_oneof![
        6 => (0..4_u8, 0..8_u8, 0..3_u64, cwd).prop_map(|(id, token, process, cwd)| {
            Op::Register(id, token, process, cwd)
        }),
        2 => (0..8_u8).prop_map(Op::Deregister),
        1 => (0..3_u64).prop_map(Op::Die),
        1 => Just(Op::Expire),
        1 => Just(Op::Report),
        1 => Just(Op::Restart),
    ]
}

const DEATH: Death = Death {
    source: Source::Restart,
    evidence: Evidence::StartTime,
    pid_reused: true,
    exit: None,
    detection: None,
};

impl Daemon {
    fn apply(&mut self, op: &Op, now: Moment) {
        match *op {
            Op::Register(id, token, process, cwd) => {
                self.register(IDS[usize::from(id)], token, process, cwd, now);
            }
            Op::Deregister(number) => drop(self.registry.deregister(&token(number), now)),
            Op::Die(process) => drop(self.registry.remove_process(ProcessId(process), DEATH, now)),
            Op::Expire => drop(self.registry.expire(now)),
            Op::Report => self.registry.publish_shutdown(now),
            Op::Restart => *self = self.restart(),
        }
    }
}

fn at_step(step: usize) -> Moment {
    at(step as u64 * 9)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 60 } else { 2_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_read_back_is_what_was_there(ops in prop::collection::vec(any_op(), 1..60)) {
        let mut daemon = Daemon::new();
        for (step, op) in ops.iter().enumerate() {
            daemon.apply(op, at_step(step));
            prop_assert_eq!(daemon.read().0.view(), daemon.view());
        }
    }

    #[test]
    fn a_stop_within_a_change_leaves_the_state_before_or_after_it(
        ops in prop::collection::vec(any_op(), 1..30),
        last in any_op(),
        writes in 0..40_u64,
        more in prop::collection::vec(any_op(), 1..10),
    ) {
        let mut daemon = Daemon::new();
        for (step, op) in ops.iter().enumerate() {
            daemon.apply(op, at_step(step));
        }
        let before = daemon.view();
        let at_last = at_step(ops.len());
        // The process goes on here in its own memory, and wipes the secrets of what it has removed.
        daemon.file.inner().blocks.writes_left.set(Some(writes));
        if !matches!(last, Op::Restart) {
            daemon.apply(&last, at_last);
        }
        let after = daemon.view();
        let mut next = daemon.restart();
        let found = next.view();
        let same = |a: &View, b: &View| a.events == b.events && a.next == b.next && a.usage == b.usage;
        prop_assert!(
            same(&found, &before) || same(&found, &after),
            "found {found:#?}\nbefore {before:#?}\nafter {after:#?}"
        );
        // A renewal changes a session and nothing else, so that both states can have the same events. The
        // key of the session before is wiped by the process that goes on here.
        if same(&before, &after) {
            let public = |view: &View| -> Vec<_> {
                view.sessions.iter().map(|(public, _)| public.clone()).collect()
            };
            prop_assert!(
                public(&found) == public(&before) || found.sessions == after.sessions,
                "found {found:#?}\nbefore {before:#?}\nafter {after:#?}"
            );
        } else if same(&found, &after) {
            prop_assert_eq!(&found.sessions, &after.sessions);
        }
        for (step, op) in more.iter().enumerate() {
            next.apply(op, at_step(ops.len() + 1 + step));
            prop_assert_eq!(next.read().0.view(), next.view());
        }
    }
}
