//! Replays the corpus and every past crash of the fuzz targets through their oracles, so that an
//! ordinary test run covers what fuzzing once found.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed helper fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use reaper_fuzz::oracles;

/// Each target with its oracle, and a test that replays the target's corpus.
macro_rules! oracles {
    ($($oracle:ident),* $(,)?) => {
        const ORACLES: &[(&str, fn(&[u8]))] = &[$((stringify!($oracle), oracles::$oracle)),*];

        mod corpus_of {
            $(#[test]
            fn $oracle() {
                super::replay(super::oracles::$oracle, &super::files("corpus", stringify!($oracle)));
            })*
        }
    };
}

oracles![
    btf,
    http_connection,
    http_head,
    netlink_message,
    query,
    register_body,
    ring_record,
    sse_client,
    stat_line,
];

/// Enough to start a fuzzer well; more would slow down every clone.
const FILES_MAX: usize = 60;
const BYTES_MAX: u64 = 200_000;

#[test]
fn every_target_has_an_oracle_and_a_corpus() {
    let oracles: BTreeSet<_> = ORACLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let targets: BTreeSet<_> = names(&folder("src/bin"))
        .into_iter()
        .filter_map(|file| Some(file.strip_suffix(".rs")?.to_owned()))
        .collect();
    assert_eq!(oracles, targets);
    assert_eq!(oracles, names(&folder("corpus")));
    let crashed = names(&folder("crashes"));
    assert!(crashed.is_subset(&oracles), "{crashed:?}");
}

#[test]
fn the_corpus_exists_and_stays_small() {
    let mut bytes = 0;
    for (name, _) in ORACLES {
        let files = files("corpus", name);
        assert!((1..=FILES_MAX).contains(&files.len()), "{name}");
        bytes += files
            .iter()
            .map(|file| fs::metadata(file).unwrap().len())
            .sum::<u64>();
    }
    assert!(bytes <= BYTES_MAX, "{bytes} bytes");
}

/// Each file under `crashes/TARGET` is named after its fault, and so is its test.
macro_rules! crashes {
    ($($oracle:ident / $what_it_was:ident),* $(,)?) => {
        const CRASHES: &[(&str, &str)] = &[$((stringify!($oracle), stringify!($what_it_was))),*];

        mod past_crash {
            $(#[test]
            fn $what_it_was() {
                let file = super::folder("crashes").join(stringify!($oracle)).join(stringify!($what_it_was));
                super::replay(super::oracles::$oracle, &[file]);
            })*
        }
    };
}

crashes![
    http_connection / a_target_without_its_slash_is_refused_with_a_body,
    http_connection / any_host_is_served_over_the_socket,
    http_connection / a_blanked_query_is_no_more_valid_than_before,
];

#[test]
fn every_past_crash_has_a_test_of_its_name() {
    let listed: BTreeSet<_> = CRASHES
        .iter()
        .map(|(oracle, what)| folder("crashes").join(oracle).join(what))
        .collect();
    let there: BTreeSet<_> = names(&folder("crashes"))
        .iter()
        .flat_map(|oracle| files("crashes", oracle))
        .collect();
    assert_eq!(listed, there);
}

fn replay(oracle: fn(&[u8]), files: &[PathBuf]) {
    for file in files {
        let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let outcome = catch_unwind(AssertUnwindSafe(|| oracle(&bytes)));
        assert!(outcome.is_ok(), "{} fails its oracle", file.display());
    }
    assert!(!files.is_empty(), "nothing to replay");
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(kind: &str, oracle: &str) -> Vec<PathBuf> {
    let folder = folder(kind).join(oracle);
    names(&folder)
        .iter()
        .map(|name| folder.join(name))
        .collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
