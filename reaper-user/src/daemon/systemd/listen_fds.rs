//! Descriptors from the service manager (`sd_listen_fds(3)`): the listening socket of a socket unit, and
//! what an earlier process has left in the descriptor store.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};

use crate::sys::inherited;

/// The number of the first one: `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;
/// The name of a descriptor without one, as `sd_listen_fds_with_names(3)` has it.
const UNNAMED: &str = "unknown";

/// Takes the descriptors that were passed to this process, with their names, in the order of the service
/// manager. Later calls return none.
///
/// The variables are for the process whose pid is in `LISTEN_PID`, so they have no meaning for children.
/// Must be called before this process opens a descriptor itself.
pub(crate) fn take() -> Vec<(String, OwnedFd)> {
    let variable = |name: &str| env::var_os(name);
    let Some(count) = passed_to(std::process::id(), variable) else {
        return Vec::new();
    };
    let names = variable("LISTEN_FDNAMES");
    inherited::take_from(FIRST, count)
        .into_iter()
        .map(|(at, fd)| (name_of(at, names.as_deref()), fd))
        .collect()
}

/// Returns the number of descriptors that were passed to the process with this pid.
fn passed_to(pid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Option<RawFd> {
    let number = |name: &str| variable(name)?.to_str()?.parse::<u32>().ok();
    if number("LISTEN_PID")? != pid {
        return None;
    }
    number("LISTEN_FDS")?.try_into().ok()
}

fn name_of(at: usize, names: Option<&OsStr>) -> String {
    let names = names.map(OsStr::to_string_lossy).unwrap_or_default();
    let name = names.split(':').nth(at).filter(|name| !name.is_empty());
    name.unwrap_or(UNNAMED).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pid: &str, count: &str) -> Option<RawFd> {
        passed_to(7, |name| match name {
            "LISTEN_PID" => Some(pid.into()),
            "LISTEN_FDS" => Some(count.into()),
            _ => None,
        })
    }

    #[test]
    fn descriptors_are_for_the_process_that_is_named() {
        assert_eq!(with("7", "2"), Some(2));
        assert_eq!(with("8", "2"), None, "a child's pid differs");
        assert_eq!(passed_to(7, |_| None), None);
    }

    #[test]
    fn a_count_that_is_none_passes_nothing() {
        for count in ["", "-1", "two", "4294967295"] {
            assert_eq!(with("7", count), None, "{count:?}");
        }
    }

    #[test]
    fn names_follow_the_order_and_may_be_missing() {
        let names = Some(OsStr::new("ipc::store"));
        let all = [0, 1, 2, 3].map(|at| name_of(at, names));
        assert_eq!(all, ["ipc", "unknown", "store", "unknown"]);
        assert_eq!(name_of(0, None), "unknown");
    }
}
