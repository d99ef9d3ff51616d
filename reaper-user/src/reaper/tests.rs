//! A registry kept true, with callbacks of its embedder that come back into it.

use std::sync::OnceLock;
use std::time::Duration;

use reaper_registry::{SourceHealth, TokenKey};
use tokio::time::timeout;

use super::*;
use crate::Sources;
use crate::testing::{Sleeper, skip_without};

/// Far longer than it takes; a deadlock takes for ever.
const SOON: Duration = Duration::from_secs(20);

fn registry() -> RegistryBuilder {
    Registry::builder(TokenKey::new([1; 16]))
}

fn token() -> Token {
    Token::from_bytes([7; 32])
}

fn registration(sleeper: &Sleeper) -> Registration {
    Registration::new(SessionId::new("s-1"), token(), sleeper.pid())
}

/// A source that reports while a process is registered or removed ends up in the embedder's code, which
/// may register and remove in its turn: no lock may be held then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedder_may_deregister_when_it_learns_of_an_event() {
    let shared: Arc<OnceLock<Registry>> = Arc::default();
    let in_callback = shared.clone();
    let builder = registry().on_event(move || {
        if let Some(registry) = in_callback.get() {
            registry.deregister(&token(), clock::now());
        }
    });
    // Without a single descriptor for processes, the source of pidfds reports at the first one.
    let reaper = Reaper::builder(builder)
        .sources(Sources::only([Source::Pidfd]))
        .max_pidfds(0)
        .start_now();
    let reports = reaper.first_reports(&[Source::Pidfd]).await;
    if reports.iter().any(|status| !status.works()) {
        return skip_without("pidfd", &reports[0].reason);
    }
    shared.get_or_init(|| reaper.registry().clone());
    let sleeper = Sleeper::start();
    let registration = registration(&sleeper);
    let reaper = Arc::new(reaper);
    let registering = reaper.clone();
    let registered =
        tokio::task::spawn_blocking(move || registering.register(registration).map(drop));
    let registered = timeout(SOON, registered).await.expect("it is not stuck");
    registered.unwrap().unwrap();
    let reported_and_removed = async {
        let is_degraded = || {
            let statuses = reaper.status();
            statuses.iter().any(|status| {
                status.source == Source::Pidfd && status.health == Some(SourceHealth::Degraded)
            })
        };
        while !reaper.registry().is_empty() || reaper.processes() > 0 || is_degraded() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, reported_and_removed)
        .await
        .expect("the session is removed and the source is up again");
}

/// Returns a reaper that watches by the sweep alone.
async fn quiet_reaper(builder: RegistryBuilder) -> Reaper {
    Reaper::builder(builder)
        .sources(Sources::only([]))
        .start()
        .await
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_reaper_and_stays_ended() {
    let reaper = quiet_reaper(registry()).await;
    let sleeper = Sleeper::start();
    let mut events = reaper.events();
    reaper.register(registration(&sleeper)).unwrap();
    let reading = tokio::spawn(async move {
        let mut names = Vec::new();
        while let Some(EventItem::Event(event)) = events.next().await {
            names.push(event.seq);
        }
        assert!(events.next().await.is_none(), "and again");
        names.len()
    });
    tokio::task::yield_now().await;
    drop(reaper);
    let read = timeout(SOON, reading).await.expect("the stream ends");
    assert!(read.unwrap() >= 1);
}

#[tokio::test]
async fn a_waker_that_panics_does_not_keep_events_from_streams() {
    let reaper = quiet_reaper(registry().on_event(|| panic!("on purpose"))).await;
    let mut events = reaper.events();
    let reading = tokio::spawn(async move { events.next().await.is_some() });
    tokio::task::yield_now().await;
    let sleeper = Sleeper::start();
    reaper.register(registration(&sleeper)).unwrap();
    let read = timeout(SOON, reading).await.expect("the stream is woken");
    assert!(read.unwrap());
    assert!(reaper.hook_panics() >= 1);
}

#[tokio::test]
async fn a_stream_can_start_after_any_event_that_has_happened() {
    let reaper = quiet_reaper(registry()).await;
    let sleeper = Sleeper::start();
    let next = reaper.events().position();
    let registration = Registration::new(
        SessionId::new("s-1"),
        Token::from_bytes([7; 32]),
        sleeper.pid(),
    );
    reaper.register(registration).unwrap();
    let mut events = reaper.events_after(next - 1).expect("it has happened");
    let Some(EventItem::Event(event)) = events.try_next() else {
        panic!("the registration follows");
    };
    assert_eq!(event.seq, next);
    assert!(reaper.events_after(next).is_some());
    assert!(reaper.events_after(next + 1).is_none(), "not yet");
}

/// On one thread, where a reader runs only if the loop lets it.
#[tokio::test]
async fn a_reader_misses_none_of_many_sessions_that_end_at_once() {
    const SESSIONS: u64 = 1_000;
    let reaper = Reaper::builder(registry().event_capacity(2 * PART))
        .sources(Sources::only([Source::Pidfd]))
        .start_now();
    let reports = reaper.first_reports(&[Source::Pidfd]).await;
    if reports.iter().any(|status| !status.works()) {
        return skip_without("pidfd", &reports[0].reason);
    }
    let mut sleeper = Sleeper::start();
    for number in 0..SESSIONS {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let id = SessionId::new(&format!("s-{number}"));
        let registration = Registration::new(id, Token::from_bytes(bytes), sleeper.pid());
        reaper.register(registration).unwrap();
    }
    let mut events = reaper.events();
    let reading = tokio::spawn(async move {
        for _ in 0..SESSIONS {
            match events.next().await {
                Some(EventItem::Event(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    // So that it waits for the first event.
    tokio::task::yield_now().await;
    sleeper.kill();
    timeout(SOON, reading).await.expect("each is read").unwrap();
}
