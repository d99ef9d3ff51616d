//! A loaded probe, and test processes to watch with it.

use std::os::fd::AsFd as _;
use std::{fmt::Debug, fs, time::Instant};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, Program, TracePoint},
};
use reaper_ebpf::{Counter, GroupDeath, WatchEntry, objects, probe};
use reaper_tests::expect::skip_without;
pub(crate) use reaper_tests::test_process::{TestProcess, stat_field};
use reaperd::testkit::btf;
use reaperd::testkit::misses::Misses;

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Variant {
    Btf,
    Classic,
}

pub(crate) struct Probe {
    pub(crate) watched: HashMap<MapData, u32, [u8; WatchEntry::SIZE]>,
    pub(crate) wakeup: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    misses: Misses,
    /// Owns program and link.
    _ebpf: Ebpf,
}

impl Probe {
    /// Loads and attaches the probe. Returns `None` and prints the reason where this is not
    /// permitted.
    pub(crate) fn attached(variant: Variant, wakeup_bytes: u32) -> Option<Self> {
        match Self::try_attached(variant, wakeup_bytes) {
            Ok(probe) => Some(probe),
            Err(reason) => {
                skip_without("ebpf", reason);
                None
            }
        }
    }

    /// As above, but returns the reason. Prints the duration of each step.
    pub(crate) fn try_attached(variant: Variant, wakeup_bytes: u32) -> Result<Self, String> {
        let mut watch = Stopwatch::start();
        let blob = fs::read(btf::VMLINUX).map_err(|e| format!("{}: {e}", btf::VMLINUX))?;
        let offsets = btf::offsets(&blob).map_err(|e| e.to_string())?;
        watch.lap("offsets");
        let canary = std::process::id();
        let mut loader = EbpfLoader::new();
        watch.lap("loader (parses kernel BTF)");
        for (name, offset) in &offsets {
            loader.override_global(name, offset, true);
        }
        loader
            .override_global(probe::globals::CANARY_TGID, &canary, true)
            .override_global(probe::globals::BOOT_OFFSET_NS, &0_u64, true)
            .map_max_entries(probe::MAP_WAKEUPS, wakeup_bytes);
        let mut ebpf = loader.load(objects::PROBE).map_err(|e| chain(&e))?;
        watch.lap("maps");
        let misses = match variant {
            Variant::Btf => attach_btf(&mut ebpf, &mut watch)?,
            Variant::Classic => attach_classic(&mut ebpf, &mut watch)?,
        };
        let mut take = |name| ebpf.take_map(name).unwrap();
        let [watched, wakeup, counters] =
            [probe::MAP_WATCHED, probe::MAP_WAKEUPS, probe::MAP_COUNTERS].map(&mut take);
        Ok(Self {
            watched: watched.try_into().unwrap(),
            wakeup: wakeup.try_into().unwrap(),
            counters: counters.try_into().unwrap(),
            misses,
            _ebpf: ebpf,
        })
    }

    pub(crate) fn watch(&mut self, tgid: u32, start_ticks: u64) {
        self.watched
            .insert(tgid, WatchEntry::watching(start_ticks).to_bytes(), 0)
            .unwrap();
    }

    pub(crate) fn entry(&self, tgid: u32) -> WatchEntry {
        WatchEntry::from_bytes(&self.watched.get(&tgid, 0).unwrap()).unwrap()
    }

    pub(crate) fn drain(&mut self) -> Vec<GroupDeath> {
        std::iter::from_fn(|| {
            self.wakeup
                .next()
                .map(|record| GroupDeath::from_bytes(&record).unwrap())
        })
        .collect()
    }

    /// The number of exits of any process for which the kernel did not run the probe. Zero before
    /// 5.12, which has no such count.
    pub(crate) fn misses(&self) -> u64 {
        self.misses.read().unwrap_or(0)
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters.get(&counter.index(), 0).unwrap().iter().sum()
    }
}

fn attach_btf(ebpf: &mut Ebpf, watch: &mut Stopwatch) -> Result<Misses, String> {
    let kernel = Btf::from_sys_fs().map_err(|e| chain(&e))?;
    watch.lap("kernel BTF for the tracepoint's id");
    let program: &mut BtfTracePoint = program(ebpf, probe::PROGRAM_BTF);
    program
        .load(probe::TRACEPOINT, &kernel)
        .map_err(|e| chain(&e))?;
    watch.lap("verify");
    program.attach().map_err(|e| chain(&e))?;
    watch.lap("attach");
    Ok(Misses::of(
        program.fd().unwrap().as_fd().try_clone_to_owned().unwrap(),
    ))
}

fn attach_classic(ebpf: &mut Ebpf, watch: &mut Stopwatch) -> Result<Misses, String> {
    let program: &mut TracePoint = program(ebpf, probe::PROGRAM_CLASSIC);
    program.load().map_err(|e| chain(&e))?;
    watch.lap("verify");
    program
        .attach(probe::TRACEPOINT_CATEGORY, probe::TRACEPOINT)
        .map_err(|e| chain(&e))?;
    watch.lap("attach");
    Ok(Misses::of(
        program.fd().unwrap().as_fd().try_clone_to_owned().unwrap(),
    ))
}

/// A program of the object, which must be of this type.
pub(crate) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut Program, Error: Debug>,
{
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        texts.push(inner.to_string());
        source = inner.source();
    }
    texts.join(": ")
}

struct Stopwatch(Instant);

#[expect(clippy::disallowed_methods, reason = "the times are only printed")]
impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self, what: &str) {
        println!("{:>9.3} ms {what}", self.0.elapsed().as_secs_f64() * 1e3);
        self.0 = Instant::now();
    }
}
