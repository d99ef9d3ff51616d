//! The observers of deaths: the bare loop, a registry in this process, a subscriber of a real daemon.
//! Each reads the clock before it does anything else.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use reaper_registry::{Registry, SessionId, Source, Token, TokenKey, Ttl};
use reaperd::testkit::clock::monotonic_ns;
use reaperd::{Pid, Reaper, Registration, Sources};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::daemon::{Daemon, eventually};
use crate::measure::token;

/// Two sweeps.
const TIMEOUT: Duration = Duration::from_secs(12);

/// A death that was observed: the number of the process, and the time.
type Observation = (u64, u64);

/// An observer of deaths.
pub(crate) struct Observer {
    pub(crate) name: String,
    watch: Box<dyn Fn(u32, u64) -> io::Result<()>>,
    observations: Receiver<Observation>,
    early: HashMap<u64, u64>,
}

impl Observer {
    fn new(
        name: impl Into<String>,
        observations: Receiver<Observation>,
        watch: impl Fn(u32, u64) -> io::Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            watch: Box::new(watch),
            observations,
            early: HashMap::new(),
        }
    }

    /// Makes it watch this process from now on, under this number.
    pub(crate) fn watch(&self, pid: u32, number: u64) -> io::Result<()> {
        (self.watch)(pid, number)
    }

    /// Waits until it has seen the death of that number; returns when that was.
    pub(crate) fn seen_at(&mut self, number: u64) -> io::Result<u64> {
        loop {
            if let Some(at_ns) = self.early.remove(&number) {
                return Ok(at_ns);
            }
            let observation = self.observations.recv_timeout(TIMEOUT);
            let (other, at_ns) = observation.map_err(|error| {
                io::Error::other(format!("{} did not see {number}: {error}", self.name))
            })?;
            self.early.insert(other, at_ns);
        }
    }
}

type Pidfds = Arc<Mutex<HashMap<u64, OwnedFd>>>;

/// One thread, one epoll set, one pidfd for each process: what one would write in C.
pub(crate) fn bare_loop() -> io::Result<Observer> {
    let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let pidfds = Pidfds::default();
    let (seen, observations) = channel();
    let (watching, held) = (epoll.clone(), pidfds.clone());
    std::thread::Builder::new()
        .name("bare-loop".into())
        .spawn(move || observe(&epoll, &pidfds, &seen))?;
    Ok(Observer::new(
        "bare pidfd + epoll loop",
        observations,
        move |pid, number| {
            let pidfd = open_pidfd(pid)?;
            epoll::add(
                &*watching,
                &pidfd,
                EventData::new_u64(number),
                EventFlags::IN | EventFlags::ONESHOT,
            )?;
            held.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(number, pidfd);
            Ok(())
        },
    ))
}

pub(crate) fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed())
        .ok_or_else(|| io::Error::other("pid 0"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Runs until the observer is dropped.
fn observe(epoll: &OwnedFd, pidfds: &Pidfds, seen: &Sender<Observation>) {
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; 256];
    loop {
        let Ok(ready) = epoll::wait(epoll, &mut events[..], None) else {
            continue;
        };
        let at_ns = monotonic_ns();
        for event in &events[..ready] {
            let number = event.data.u64();
            if seen.send((number, at_ns)).is_err() {
                return;
            }
            pidfds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&number);
        }
    }
}

/// A registry in this process, seen by its deregister hook. `None`: every source.
pub(crate) fn hook(
    runtime: &tokio::runtime::Runtime,
    source: Option<Source>,
) -> io::Result<Observer> {
    let (seen, observations) = channel();
    let builder = Registry::builder(TokenKey::new([7; 16])).on_deregister(move |session, _| {
        let at_ns = monotonic_ns();
        if let Some(number) = number_of(session.id.as_str()) {
            // The receiver is gone once the measurement is over.
            seen.send((number, at_ns)).unwrap_or_default();
        }
    });
    let sources = source.map_or(Sources::Auto, |source| Sources::only([source]));
    let reaper = runtime.block_on(Reaper::builder(builder).sources(sources).start());
    let is_up = || {
        let works = |wanted: Source| {
            let status = reaper.status();
            status.iter().any(|one| one.source == wanted && one.works())
        };
        source.map_or_else(|| works(Source::Ebpf) && works(Source::Netlink), works)
    };
    let name = format!("hook, {}", source.map_or("all sources", Source::name));
    eventually(&name, is_up)?;
    Ok(Observer::new(name, observations, move |pid, number| {
        let mut random = Rng::with_seed(number + 1);
        let id = SessionId::new(&format!("v-{number}"));
        let token = Token::parse(&token(&mut random)).map_err(io::Error::other)?;
        let pid = Pid::new(pid).map_err(io::Error::other)?;
        let registration = Registration::new(id, token, pid).ttl(Ttl::Default);
        reaper
            .register(registration)
            .map(drop)
            .map_err(|error| io::Error::other(error.to_string()))
    }))
}

/// A subscriber of a daemon's events. `None`: every source.
pub(crate) fn subscriber(source: Option<Source>) -> io::Result<Observer> {
    let daemon = match source {
        Some(source) => Daemon::start(&["--sources", source.name()])?,
        None => Daemon::start(&[])?,
    };
    match source {
        Some(source) => daemon.wait_for(source.name())?,
        None => daemon.wait_for("ebpf")?,
    }
    let source = source.map_or("all sources", Source::name);
    subscriber_of(daemon, &format!("subscriber, {source}"))
}

/// A subscriber of this daemon.
pub(crate) fn subscriber_of(daemon: Daemon, name: &str) -> io::Result<Observer> {
    let observations = read_events(&daemon)?;
    Ok(Observer::new(name, observations, move |pid, number| {
        daemon.register(
            pid,
            &format!("v-{number}"),
            &token(&mut Rng::with_seed(number + 1)),
        )
    }))
}

/// Deregistrations as they arrive.
pub(crate) fn read_events(daemon: &Daemon) -> io::Result<Receiver<Observation>> {
    let mut stream = daemon.events()?;
    let (seen, observations) = channel();
    std::thread::Builder::new()
        .name("subscriber".into())
        .spawn(move || {
            let mut chunk = vec![0; 65_536];
            let mut text = String::new();
            while let Ok(read @ 1..) = stream.read(&mut chunk) {
                let at_ns = monotonic_ns();
                text.push_str(&String::from_utf8_lossy(&chunk[..read]));
                let mut frames = text.split("\n\n").peekable();
                let mut rest = "";
                while let Some(frame) = frames.next() {
                    if frames.peek().is_none() {
                        // What has no end yet.
                        rest = frame;
                    } else if let Some(number) = number_in(frame)
                        && seen.send((number, at_ns)).is_err()
                    {
                        return;
                    }
                }
                text = rest.to_owned();
            }
        })?;
    Ok(observations)
}

/// The number of the session in a frame.
fn number_in(frame: &str) -> Option<u64> {
    let (_, rest) = frame.split_once("\"v-")?;
    rest.split('"').next()?.parse().ok()
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix("v-")?.parse().ok()
}
