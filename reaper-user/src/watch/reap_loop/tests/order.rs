//! The order in which the deaths of one batch are committed: the last of a session's processes gives the exit
//! status.

use super::*;

fn hint(process: ProcessId, died_at_ns: Option<u64>) -> Hint {
    Hint {
        died_at_ns,
        ..Hint::check(process, Source::Ebpf)
    }
}

#[tokio::test(start_paused = true)]
async fn deaths_of_one_batch_are_committed_in_their_order() {
    let fixture = Fixture::new(10);
    let first = fixture.watch(7, 100);
    let second = fixture.watch(8, 100);
    let third = fixture.watch(9, 100);
    for raw_pid in [7, 8, 9] {
        fixture.table.die(pid(raw_pid), 0);
    }
    for (process, died_at_ns) in [
        (third, None),
        (first, Some(30)),
        (first, None),
        (second, Some(20)),
    ] {
        fixture.hints.send(hint(process, died_at_ns));
    }
    fixture.pass(A_MOMENT).await;
    let order: Vec<_> = fixture
        .deaths()
        .into_iter()
        .map(|(process, _)| process)
        .collect();
    assert_eq!(order, [second, first, third]);
}
