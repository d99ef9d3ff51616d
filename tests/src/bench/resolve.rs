//! `resolve` in process, at a hundred thousand sessions.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use reaper_registry::{Registry, Token};
use reaper_user::clock::{self, monotonic_ns};

use super::Plan;
use super::mass::{full, store};
use super::measure::{Dice, Readings, count, float, thread_cpu_ns};
use super::report::{Row, Section, time, times};

const SESSIONS: u64 = 100_000;
/// Calls that are timed together.
const BATCH: usize = 1_000;
const BATCHES: usize = 200;

/// The bytes of tokens in an order that no cache foresees.
fn shuffled(seed: u64) -> io::Result<Vec<[u8; 32]>> {
    let mut dice = Dice::new(1);
    let mut tokens = Vec::new();
    for _ in 0..SESSIONS {
        let text = dice.token();
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(io::Error::other)?;
            *byte = u8::from_str_radix(pair, 16).map_err(io::Error::other)?;
        }
        tokens.push(bytes);
    }
    let mut shuffle = Dice::new(seed);
    for last in (1..tokens.len()).rev() {
        tokens.swap(last, shuffle.below(last + 1));
    }
    Ok(tokens)
}

/// Time of this thread's own for one call, over batches; `clocked`: with the two clocks that a
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
            let mut dice = Dice::new(77);
            while !stop.load(Ordering::Relaxed) {
                let token = dice.token();
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

pub(super) fn measure(plan: &Plan) -> io::Result<Section> {
    let registry = full(SESSIONS, || ())?;
    let (tokens, others) = (shuffled(11)?, shuffled(12)?);
    time_calls(&registry, &tokens, false);
    let (mut alone, mut clocked, mut scaling) = <(Readings, Readings, Readings)>::default();
    let (mut churned, mut changes) = <(Readings, Readings)>::default();
    for _ in 0..plan.rounds {
        let one = time_calls(&registry, &tokens, false).median();
        alone.push(one);
        clocked.push(time_calls(&registry, &tokens, true).median());
        scaling.push(both(&registry, &tokens, &others) * one);
        let (median, rate) = beside_churn(&registry, &tokens)?;
        churned.push(median / one);
        changes.push(rate);
    }
    let (median, factor, slower) = (alone.median(), scaling.median(), churned.median());
    let rows = vec![
        Row::new("one call", time(median))
            .beside("1.56 µs, the origin's Map in Node at this size")
            .target("< 100 ns", median < 100.0),
        Row::new("with both clocks read", time(clocked.median())),
        Row::new("two threads", times(factor))
            .beside("one thread")
            .target("at least 1.8x", factor >= 1.8),
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
