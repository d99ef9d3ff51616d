//! What root can read of the memory of a process, and the search in it.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::canary::Form;

/// A copy of all writable memory of a process.
pub struct MemoryScan {
    /// The line of the mapping in `/proc/PID/maps`, and its bytes.
    readable: Vec<(String, Vec<u8>)>,
    /// The lines of mappings that cannot be read.
    pub unreadable: Vec<String>,
}

impl MemoryScan {
    /// Reads it, as quickly as possible.
    pub fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut scan = Self {
            readable: Vec::new(),
            unreadable: Vec::new(),
        };
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let range = line.split(' ').next().unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            match memory.read_exact_at(&mut bytes, start) {
                Ok(()) => scan.readable.push((line.to_owned(), bytes)),
                Err(_) => scan.unreadable.push(line.to_owned()),
            }
        }
        assert!(!scan.readable.is_empty(), "{maps}");
        scan
    }

    /// Where these forms are, one line for each place.
    pub fn places_of(&self, forms: &[Form]) -> Vec<String> {
        let places = self.readable.iter().flat_map(|(mapping, bytes)| {
            let places = places_in(bytes, forms).into_iter();
            places.map(move |place| format!("{mapping}: {place}"))
        });
        places.collect()
    }
}

/// A page of zeros is skipped as a whole.
const PAGE: usize = 4_096;

/// Where these forms are in these bytes, one line for each place.
pub fn places_in(bytes: &[u8], forms: &[Form]) -> Vec<String> {
    // Most positions are ruled out by their first two bytes.
    let mut by_pair = vec![Vec::new(); 1 << 16];
    for form in forms {
        by_pair[pair(&form.bytes)].push(form);
    }
    let mut places = Vec::new();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        let start = number * PAGE;
        if page == &[0; PAGE][..page.len()] {
            continue;
        }
        let end = (start + page.len()).min(bytes.len() - 1);
        for at in start..end {
            let here = &bytes[at..];
            for form in &by_pair[pair(here)] {
                if !here.starts_with(&form.bytes) {
                    continue;
                }
                let near = &bytes[at.saturating_sub(48)..(at + 80).min(bytes.len())];
                places.push(format!("{} at {at:#x}: {}", form.name, near.escape_ascii()));
            }
        }
    }
    places
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}
