//! The source against the kernel that runs the tests.

mod filtering;
mod places;

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use reaper_registry::{ProcessId, SourceHealth};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::testing::skip_without;
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::WaitStatus;
use crate::watch::hint::{self, HintReceiver};
use crate::watch::set::WatchSet;
use crate::watch::status::StatusBoard;

/// For what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
/// Space for about twenty messages.
const TINY_BUFFER: usize = 8 * 1024;

/// Returns whether the connector can be tested here. Prints why not, and fails where it is
/// required.
async fn available() -> bool {
    let filter = ClassicFilter::new(None);
    let Err(SourceError { reason, remedy }) = Subscription::open(&filter, TINY_BUFFER).await else {
        return true;
    };
    skip_without("netlink", format_args!("{reason} ({remedy})"));
    false
}

/// Polls until this holds. A parent sees an exit before the connector reports it.
async fn eventually(mut holds: impl FnMut() -> bool) {
    let polling = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, polling).await.expect("it never held");
}

/// The id of a process in the plain watch set.
fn id_of(pid: u32) -> ProcessId {
    ProcessId(u64::from(pid))
}

/// A child that exits when its input ends.
struct TestProcess(Child);

impl TestProcess {
    fn new() -> Self {
        Self::running("read line; exit 3")
    }

    /// Starts a shell that runs this script; its input ends on [`Self::exit`].
    fn running(script: &str) -> Self {
        let mut shell = Command::new("sh");
        Self(
            shell
                .args(["-c", script])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    /// Returns `None`, with the reason printed, where none can be made.
    fn in_a_network_namespace() -> Option<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", "echo there; read line"]);
        let mut child = unshare
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut there = [0; 5];
        if let Err(error) = child.stdout.take()?.read_exact(&mut there) {
            println!("skipped: no network namespace can be made: {error}");
            return None;
        }
        Some(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn id(&self) -> ProcessId {
        id_of(self.pid())
    }

    fn exit(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

fn start_processes(count: usize) -> Vec<TestProcess> {
    std::iter::repeat_with(TestProcess::new)
        .take(count)
        .collect()
}

/// A running listener with a plain watch set.
struct Fixture {
    hints: HintReceiver,
    sender: HintSender,
    board: StatusBoard,
    filter: Arc<ClassicFilter>,
    watched: Arc<Mutex<HashSet<u32>>>,
    running: JoinHandle<Result<Infallible, SourceError>>,
}

impl Fixture {
    fn start(filter: ClassicFilter, receive_buffer: usize) -> Self {
        let (sender, hints) = hint::channel();
        let board = StatusBoard::new(|_| {});
        let filter = Arc::new(filter);
        let watched: Arc<Mutex<HashSet<u32>>> = Arc::default();
        let set = Arc::clone(&watched);
        let listener = Listener {
            hints: sender.clone(),
            reporter: board.reporter(Source::Netlink),
            filter: Arc::clone(&filter),
            processes_with: move |pid: Pid| {
                let set = set.lock().unwrap_or_else(PoisonError::into_inner);
                let is_watched = set.contains(&pid.get());
                is_watched.then(|| id_of(pid.get())).into_iter().collect()
            },
            receive_buffer,
            clocks: TimeNamespace::of_this_process().unwrap(),
        };
        let running = tokio::spawn(listener.run());
        Self {
            hints,
            sender,
            board,
            filter,
            watched,
            running,
        }
    }

    async fn up(receive_buffer: usize) -> Self {
        let own = Some(std::process::id());
        let fixture = Self::start(ClassicFilter::new(own), receive_buffer);
        let status = timeout(SOON, fixture.board.first_report(Source::Netlink))
            .await
            .unwrap();
        assert_eq!(status.health, Some(SourceHealth::Up), "{}", status.reason);
        println!("{}", status.detail);
        fixture.expect_sweep_request().await;
        fixture
    }

    async fn expect_sweep_request(&self) {
        timeout(SOON, self.sender.sweep_requested()).await.unwrap();
    }

    fn watch(&self, test_process: &TestProcess) {
        self.watched.lock().unwrap().insert(test_process.pid());
        self.filter.add(test_process.pid(), test_process.id());
    }

    /// Ends more watched processes than the tiny buffer has space for. The listener shares this
    /// thread, so it reads nothing until all of them have exited.
    fn overrun(&self) {
        let mut test_processes = start_processes(40);
        for one in &test_processes {
            self.watch(one);
        }
        test_processes.iter_mut().for_each(TestProcess::exit);
    }

    /// Checks that the exit of a new test process arrives. With a tiny buffer, unrelated processes
    /// may fill the queue again. Then a sweep is requested again, and another process is tried.
    async fn works(&mut self) {
        for _ in 0..20 {
            while self.hints.try_recv().is_ok() {}
            let mut test_process = TestProcess::new();
            self.watch(&test_process);
            self.filter.install_again();
            test_process.exit();
            let exited = tokio::select! {
                biased;
                hint = self.hints.recv() => hint.map(|hint| hint.process),
                () = self.sender.sweep_requested() => None,
                () = tokio::time::sleep(SOON) => panic!("neither a hint nor a request for a sweep"),
            };
            if exited == Some(test_process.id()) {
                return;
            }
        }
        panic!("the exits of twenty test processes in a row were dropped");
    }

    async fn next_hint(&mut self) -> Hint {
        timeout(SOON, self.hints.recv()).await.unwrap().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[tokio::test]
async fn the_exit_of_a_watched_process_is_a_hint_with_its_status() {
    if !available().await {
        return;
    }
    let mut fixture = Fixture::up(RECEIVE_BUFFER).await;
    let (mut leaves, mut killed) = (TestProcess::new(), TestProcess::new());
    fixture.watch(&leaves);
    fixture.watch(&killed);
    let before = crate::clock::monotonic_ns();
    leaves.exit();
    let hint = fixture.next_hint().await;
    assert_eq!(hint.process, leaves.id());
    assert_eq!(
        (hint.source, hint.exit, hint.group_dead),
        (Source::Netlink, Some(WaitStatus::MainThread(0x300)), None)
    );
    assert!((before..crate::clock::monotonic_ns()).contains(&hint.died_at_ns.unwrap()));
    killed.kill();
    let hint = fixture.next_hint().await;
    assert_eq!(
        (hint.process, hint.exit),
        (killed.id(), Some(WaitStatus::MainThread(9)))
    );
}

#[tokio::test]
async fn the_watch_set_arms_the_source() {
    if !available().await {
        return;
    }
    let (sender, mut hints) = hint::channel();
    let board = StatusBoard::new(|_| {});
    let table = crate::sys::process_table::of_this_system();
    let watched = WatchSet::new(table, FdBudget::new(16), sender.clone());
    let (mut early, mut late) = (TestProcess::new(), TestProcess::new());
    let held_before = watched.watch(Pid::new(early.pid()).unwrap()).unwrap();
    let reporter = board.reporter(Source::Netlink);
    let running = tokio::spawn(run(Context {
        hints: sender,
        watched: watched.clone(),
        reporter,
    }));
    timeout(SOON, board.first_report(Source::Netlink))
        .await
        .unwrap();
    let held_after = watched.watch(Pid::new(late.pid()).unwrap()).unwrap();
    for (test_process, guard) in [(&mut early, &held_before), (&mut late, &held_after)] {
        test_process.exit();
        let hint = timeout(SOON, hints.recv()).await.unwrap().unwrap();
        assert_eq!(hint.process, guard.watched.id);
    }
    drop((held_before, held_after));
    running.abort();
}

#[tokio::test]
async fn dropped_exits_are_counted_exactly() {
    if !available().await {
        return;
    }
    let filter = ClassicFilter::new(None);
    let mut subscription = Subscription::open(&filter, TINY_BUFFER).await.unwrap();
    let mut test_processes = start_processes(40);
    for test_process in &test_processes {
        filter.add(test_process.pid(), ProcessId(1));
    }
    filter.install_again();
    subscription.drain_all(|_| {}).unwrap();
    let unrelated = subscription.new_drops().unwrap();
    println!("{unrelated} unrelated processes were dropped while the filter was wide");
    test_processes.iter_mut().for_each(TestProcess::exit);
    let (mut read, mut dropped) = (0, 0);
    assert_eq!(subscription.drain(|_| read += 1).unwrap(), Drained::Overrun);
    eventually(|| {
        subscription.drain_all(|_| read += 1).unwrap();
        dropped += subscription.new_drops().unwrap();
        read + dropped >= 40
    })
    .await;
    assert!(read > 0, "what was queued before could not be read");
    assert_eq!(read + dropped, 40);
}

#[tokio::test]
async fn an_overrun_is_reported_and_requests_a_sweep_and_then_the_source_works() {
    if !available().await {
        return;
    }
    let mut fixture = Fixture::up(TINY_BUFFER).await;
    fixture.overrun();
    let began = crate::clock::monotonic_ns();
    fixture.expect_sweep_request().await;
    println!(
        "recovered in {} us",
        (crate::clock::monotonic_ns() - began) / 1_000
    );
    let status = fixture.board.get(Source::Netlink);
    assert_eq!(status.health, Some(SourceHealth::Up), "{}", status.reason);
    assert!(status.lost > 0, "none of forty lost");
    // What was queued before is passed on, unless threads of other tests filled the queue.
    while let Ok(hint) = fixture.hints.try_recv() {
        assert_eq!(hint.exit, Some(WaitStatus::MainThread(0x300)));
    }
    fixture.works().await;
}

#[tokio::test]
async fn the_old_socket_stays_if_no_new_one_can_be_opened() {
    if !available().await {
        return;
    }
    let mut fixture = Fixture::up(TINY_BUFFER).await;
    // From here on, new sockets of this thread are in a network namespace without a connector.
    let Some(private) = TestProcess::in_a_network_namespace() else {
        return;
    };
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", private.pid())).unwrap();
    rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
    assert!(
        Subscription::open(&ClassicFilter::new(None), TINY_BUFFER)
            .await
            .is_err()
    );
    fixture.overrun();
    fixture.expect_sweep_request().await;
    assert_eq!(
        fixture.board.get(Source::Netlink).health,
        Some(SourceHealth::Up)
    );
    fixture.works().await;
}

#[tokio::test]
async fn two_missed_canaries_end_the_source() {
    if !available().await {
        return;
    }
    // A filter without our thread group has the effect of a kernel that sends nothing.
    let mut fixture = Fixture::start(ClassicFilter::new(None), RECEIVE_BUFFER);
    let error = timeout(SOON, &mut fixture.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.reason, refusal::canaries_missed().reason);
    assert_eq!(
        fixture.board.get(Source::Netlink).health,
        None,
        "it was never reported up"
    );
}
