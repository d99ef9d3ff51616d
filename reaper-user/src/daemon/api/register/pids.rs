//! The processes of a registration: `pid`, `pids`, or both.

use reaper_registry::Pid;
use serde_json::value::RawValue;

use super::{invalid, plain_integer, present, required};
use crate::daemon::http::problem::{Code, Problem};

/// How many processes a session can hang on.
pub(super) const PIDS_MAX: usize = 64;

/// Returns the first process and the further ones, each once.
pub(super) fn parse(
    pid: Option<&RawValue>,
    pids: Option<&RawValue>,
) -> Result<(Pid, Vec<Pid>), Problem> {
    let Some(pids) = present(pids) else {
        let raw = present(pid).ok_or_else(|| required("pid"))?;
        return Ok((parse_pid(raw)?, Vec::new()));
    };
    let first = present(pid).map(parse_pid).transpose()?;
    let listed = parse_pids(pids)?;
    let mut all: Vec<Pid> = Vec::new();
    for pid in first.into_iter().chain(listed) {
        if !all.contains(&pid) {
            all.push(pid);
        }
    }
    if all.len() > PIDS_MAX {
        return Err(invalid_pids());
    }
    let further = all.split_off(1);
    Ok((all[0], further))
}

/// Returns at least one.
fn parse_pids(raw: &RawValue) -> Result<Vec<Pid>, Problem> {
    let listed: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_other_type| invalid_pids())?;
    if listed.is_empty() || listed.len() > PIDS_MAX {
        return Err(invalid_pids());
    }
    let pid = |raw: &&RawValue| parse_plain(raw).ok_or_else(invalid_pids);
    listed.iter().map(pid).collect()
}

fn invalid_pids() -> Problem {
    let max = Pid::MAX;
    let rule = format!("must be an array of 1 to {PIDS_MAX} integers in 1..={max}");
    invalid("pids", &rule)
}

fn parse_pid(raw: &RawValue) -> Result<Pid, Problem> {
    // Whether the caller may register it is checked later. In a container, 1 is an ordinary
    // process.
    parse_plain(raw).ok_or_else(|| {
        let rule = format!("pid must be an integer in 1..={}", Pid::MAX);
        Problem::field("pid", Code::InvalidPid, rule.clone(), rule)
    })
}

fn parse_plain(raw: &RawValue) -> Option<Pid> {
    plain_integer(raw.get()).and_then(|pid| Pid::new(pid).ok())
}
