//! What of the daemon's memory reaches the disk when the system swaps it out.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use reaper_tests::canary::{Canary, Form};
use reaper_tests::daemon::{TestDaemon, private_folder};
use reaper_tests::expect::{root_with, skip};
use reaper_tests::memory_scan::places_in;
use reaper_tests::sys::page_out;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use super::{Kind, PROTECTED, traffic};

const SIZE: usize = 64 << 20;

/// A file that the system swaps to, until it is dropped.
struct SwapFile {
    path: PathBuf,
    _folder: TempDir,
}

impl SwapFile {
    /// `None`, with the reason printed, where the system does not swap to files here.
    fn start() -> Option<Self> {
        let folder = private_folder();
        let path = folder.path().join("swap");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![0; SIZE]).unwrap();
        file.sync_all().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for program in ["mkswap", "swapon"] {
            let output = Command::new(program).arg(&path).output().unwrap();
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                skip(format_args!("no swap to files here: {error}"));
                return None;
            }
        }
        Some(Self {
            path,
            _folder: folder,
        })
    }

    /// Where these forms are on the disk.
    fn places_of(&self, forms: &[Form]) -> Vec<String> {
        let mut file = File::open(&self.path).unwrap();
        // The kernel swaps past the cache of the file.
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let mut bytes = Vec::with_capacity(SIZE);
        file.read_to_end(&mut bytes).unwrap();
        places_in(&bytes, forms)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        let off = Command::new("swapoff").arg(&self.path).status();
        assert!(off.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Has all memory of the daemon's worker swapped out that the kernel may swap. Returns the number of
/// mappings.
fn swap_out(daemon: &TestDaemon) -> usize {
    let pid = Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    let ranges = maps.lines().filter(|line| line.contains(" rw"));
    let ranges = ranges.filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
        Some((start, end - start))
    });
    // Locked memory and that of `memfd_secret` are refused.
    ranges
        .filter(|(start, length)| page_out(&pidfd, *start, *length).is_ok())
        .count()
}

#[test]
fn memory_that_is_swapped_out_has_no_key_and_no_token() {
    if !root_with(&["mkswap", "swapon", "swapoff"]) {
        return;
    }
    let Some(swap) = SwapFile::start() else {
        return;
    };
    for kind in PROTECTED {
        let Some(daemon) = kind.start(&[]) else {
            continue;
        };
        // Its key is in memory that may be swapped, which shows that the attack works.
        let Some(control) = Kind::Unlocked.start(&[]) else {
            continue;
        };
        let process = TestProcess::start();
        let stored = traffic::store(&daemon.socket(), process.pid());
        let of_control = traffic::store(&control.socket(), process.pid());
        let mappings = swap_out(&daemon);
        swap_out(&control);
        let control_forms = of_control.forms(|canary| vec![canary.raw_key()]);
        eventually("the key of the control is on the disk", || {
            !swap.places_of(&control_forms).is_empty()
        });
        println!("{kind:?}: {mappings} mappings were swapped out");
        assert!(mappings > 0);
        let places = swap.places_of(&stored.forms(Canary::all_forms));
        assert!(places.is_empty(), "{kind:?}: {places:#?}");
        drop((stored, of_control));
        daemon.stop();
        control.stop();
    }
}
