//! `resolve` in process, at a hundred thousand sessions.

use std::collections::HashMap;
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use fastrand::Rng;
use reaper_registry::{Registry, Token};
use reaperd::testkit::clock::{self, monotonic_ns};

use crate::Plan;
use crate::mass::{TOKENS_SEED, full, store};
use crate::measure::{Readings, count, float, thread_cpu_ns, token, token_bytes};
use crate::report::{Row, Section, time, times};

const SESSIONS: u64 = 100_000;
/// Calls that are timed together.
const BATCH: usize = 1_000;
const BATCHES: usize = 200;

/// The bytes of the tokens of [`full`], in an order that no cache foresees.
fn shuffled(seed: u64) -> Vec<[u8; 32]> {
    let mut random = Rng::with_seed(TOKENS_SEED);
    let mut tokens: Vec<_> = (0..SESSIONS).map(|_| token_bytes(&mut random)).collect();
    Rng::with_seed(seed).shuffle(&mut tokens);
    tokens
}

/// CPU time of this thread for one call, over batches; `clocked`: with the two clocks that a
/// caller has to read.
fn time_calls(registry: &Registry, tokens: &[[u8; 32]], clocked: bool) -> Readings {
    let mut readings = Readings::default();
    let fixed = clock::now();
    for batch in tokens.chunks(BATCH).cycle().take(BATCHES) {
        let began = thread_cpu_ns();
        for bytes in batch {
            let now = if clocked { clock::now() } else { fixed };
            let session = registry.resolve(&Token::from_bytes(*bytes), now);
            assert!(session.is_some(), "every token is a session's");
        }
        readings.push(float(thread_cpu_ns() - began) / count(batch.len()));
    }
    readings
}

/// The floor: the same tokens in a plain map of one thread's own, without lock, clock or age.
type Plain = HashMap<[u8; 32], Arc<u64>>;

fn time_plain(map: &Plain, tokens: &[[u8; 32]]) -> f64 {
    let mut readings = Readings::default();
    for batch in tokens.chunks(BATCH).cycle().take(BATCHES) {
        let began = thread_cpu_ns();
        for bytes in batch {
            let found = map.get(bytes).cloned();
            assert!(black_box(found).is_some(), "every token is in the map");
        }
        readings.push(float(thread_cpu_ns() - began) / count(batch.len()));
    }
    readings.median()
}

/// What two threads that share nothing get done together here, in times of what one does.
fn plain_scaling(maps: &[Plain; 2], tokens: [&[[u8; 32]]; 2], one: f64) -> f64 {
    thread::scope(|scope| {
        let beside = scope.spawn(|| 1.0 / time_plain(&maps[1], tokens[1]));
        let here = 1.0 / time_plain(&maps[0], tokens[0]);
        (here + beside.join().unwrap_or(f64::NAN)) * one
    })
}

/// Two threads at once: the sum of what each gets done in its own processor time.
fn both(registry: &Registry, one: &[[u8; 32]], other: &[[u8; 32]]) -> f64 {
    let rate = |tokens| 1.0 / time_calls(registry, tokens, false).median();
    thread::scope(|scope| {
        let beside = scope.spawn(|| rate(other));
        let here = rate(one);
        here + beside.join().unwrap_or(f64::NAN)
    })
}

/// The median while another thread registers and removes sessions as fast as it can, and how many
/// changes a second that was.
fn beside_churn(registry: &Registry, tokens: &[[u8; 32]]) -> io::Result<(f64, f64)> {
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    thread::scope(|scope| {
        let churn = scope.spawn(|| -> io::Result<()> {
            let mut random = Rng::with_seed(77);
            while !stop.load(Ordering::Relaxed) {
                let token = token(&mut random);
                store(registry, SESSIONS + 1, &token)?;
                let token = Token::parse(&token).map_err(io::Error::other)?;
                registry.deregister(&token, clock::now());
                changes.fetch_add(2, Ordering::Relaxed);
            }
            Ok(())
        });
        let began = monotonic_ns();
        let median = time_calls(registry, tokens, false).median();
        let rate = float(changes.load(Ordering::Relaxed)) * 1e9 / float(monotonic_ns() - began);
        stop.store(true, Ordering::Relaxed);
        churn
            .join()
            .map_err(|_panic| io::Error::other("the churn panicked"))??;
        Ok((median, rate))
    })
}

pub(crate) fn measure(plan: &Plan) -> io::Result<Section> {
    let registry = full(SESSIONS, || ())?;
    let (tokens, others) = (shuffled(11), shuffled(12));
    let private_map = || -> Plain { tokens.iter().map(|bytes| (*bytes, Arc::new(1))).collect() };
    let maps = [private_map(), private_map()];
    time_calls(&registry, &tokens, false);
    let (mut floor, mut floor_scaling) = <(Readings, Readings)>::default();
    let (mut alone, mut with_clocks, mut scaling) = <(Readings, Readings, Readings)>::default();
    let (mut beside, mut changes) = <(Readings, Readings)>::default();
    for _ in 0..plan.rounds {
        let one = time_calls(&registry, &tokens, false).median();
        alone.push(one);
        let least = time_plain(&maps[0], &tokens);
        floor.push(least);
        floor_scaling.push(plain_scaling(&maps, [&tokens, &others], least));
        with_clocks.push(time_calls(&registry, &tokens, true).median());
        scaling.push(both(&registry, &tokens, &others) * one);
        let (median, rate) = beside_churn(&registry, &tokens)?;
        beside.push(median / one);
        changes.push(rate);
    }
    let (median, factor, slower) = (alone.median(), scaling.median(), beside.median());
    let rows = vec![
        Row::new("one call", time(median))
            .beside(format!(
                "a plain HashMap of one thread {}; the claudemesh daemon's Map in Node 1.56 µs",
                time(floor.median())
            ))
            .ratio(times(median / floor.median()))
            .target("< 100 ns", median < 100.0)
            .unless_missed_by(floor.median() < 100.0),
        Row::new("with both clocks read", time(with_clocks.median())),
        Row::new("two threads", times(factor))
            .beside(format!(
                "one thread; two plain maps that share nothing {}",
                times(floor_scaling.median())
            ))
            .target("at least 1.8x", factor >= 1.8)
            .unless_missed_by(floor_scaling.median() >= 1.8),
        Row::new("while sessions churn", time(median * slower))
            .beside(format!(
                "{:.0} k changes/s in another thread",
                changes.median() / 1e3
            ))
            .ratio(times(slower))
            .target("< 2x", slower < 2.0),
    ];
    Ok(Section {
        title: "resolve, 100,000 sessions, in process",
        method: format!(
            "tokens made anew from bytes in shuffled order, so that neither they nor their sessions are in a \
             cache; {BATCHES} batches of {BATCH} a round, {} rounds, medians; time is the calling thread's own CPU \
             time, because the machine is shared",
            plan.rounds
        ),
        rows,
    })
}
