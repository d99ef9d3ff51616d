//! Parsers of option values. An invalid value is a usage error, or a fault of the configuration file.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reaper_registry::Source;

use super::readable::{Database, names};
use crate::daemon::descriptors::MIN_CONNECTIONS;
#[cfg(target_os = "linux")]
use crate::daemon::sandbox::User;
use crate::engine::Sources;

/// Parses `auto` or a comma-separated list of sources.
pub(crate) fn sources(text: &str) -> Result<Sources, String> {
    if text == "auto" {
        return Ok(Sources::Auto);
    }
    let sources = text.split(',').map(source).collect::<Result<_, _>>()?;
    Ok(Sources::Only(sources))
}

/// Parses the name of one source.
pub(crate) fn source(text: &str) -> Result<Source, String> {
    let known = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];
    known
        .into_iter()
        .find(|source| source.name() == text.trim())
        .ok_or_else(|| format!("unknown source {text:?}; expected netlink, ebpf, pidfd or sweep"))
}

/// Parses a time span of at least 10 ms, such as `5s`, `24h` or `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(10) {
        return Err("must be at least 10ms".to_owned());
    }
    Ok(duration)
}

/// Parses a port of the loopback interface, or an address with a port.
pub(crate) fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text.parse().map_err(|_neither| {
            "expected a port, or an address with a port such as 127.0.0.1:9464".to_owned()
        }),
    }
}

/// Parses a name of at most 128 bytes.
pub(crate) fn slug(text: &str) -> Result<String, String> {
    word(text, 128, "-._")
}

/// Parses a version of a program.
pub(crate) fn version(text: &str) -> Result<String, String> {
    word(text, 64, "-._+")
}

fn word(text: &str, most: usize, marks: &str) -> Result<String, String> {
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || marks.contains(it);
    if text.is_empty() || text.len() > most {
        return Err(format!("must have 1 to {most} characters"));
    }
    match text.chars().find(|it| !is_allowed(*it)) {
        Some(wrong) => Err(format!("must not contain {wrong:?}")),
        None => Ok(text.to_owned()),
    }
}

/// Parses a number greater than zero.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a number of bytes greater than zero, such as `4096`, `64KiB`, `512MiB` or `2GiB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (number, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .unwrap_or((text, 0));
    count(number.trim_end())
        .map_err(|error| format!("{error}; expected a number of bytes, KiB, MiB or GiB"))?
        .checked_mul(1 << shift)
        .ok_or_else(|| "is too large".to_owned())
}

/// Parses a uid or the name of a user.
pub(crate) fn user(text: &str) -> Result<u32, String> {
    id(text, "user", |name| names::find(Database::Users, name))
}

/// Parses the name or uid of a user who can own processes. A uid without an account is its own group.
#[cfg(target_os = "linux")]
pub(crate) fn account(text: &str) -> Result<User, String> {
    let uid = user(text)?;
    let account = uzers::get_user_by_uid(uid);
    let gid = account.map_or(uid, |account| account.primary_group_id());
    Ok(User { uid, gid })
}

/// Parses a gid or the name of a group.
pub(crate) fn group(text: &str) -> Result<u32, String> {
    id(text, "group", |name| names::find(Database::Groups, name))
}

/// Digits are an id, as in chown(1), unless there is such a name. The largest number means "none" to
/// the system.
fn id(text: &str, what: &str, by_name: impl Fn(&str) -> Option<u32>) -> Result<u32, String> {
    let number = text.parse().ok().filter(|id| *id != u32::MAX);
    by_name(text)
        .or(number)
        .ok_or_else(|| format!("there is no {what} with this name or number"))
}

/// Parses a number of connections, of which the daemon needs some.
pub(crate) fn connections(text: &str) -> Result<usize, String> {
    match count(text)? {
        ..MIN_CONNECTIONS => Err(format!("must be at least {MIN_CONNECTIONS}")),
        count => Ok(count),
    }
}

/// Parses a time span of at least one second: whole seconds are announced.
pub(crate) fn keep_alive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_list_is_auto_or_source_names() {
        assert_eq!(sources("auto"), Ok(Sources::Auto));
        let only = Sources::only([Source::Netlink, Source::Sweep]);
        assert_eq!(sources("sweep,netlink,sweep"), Ok(only));
        for wrong in ["", "netlnik", "netlink,", "auto,sweep", "register"] {
            assert!(sources(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn zero_times_and_counts_are_rejected() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["0s", "5", "", "-1s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert!(keep_alive("900ms").is_err() && keep_alive("1s").is_ok());
        assert!(connections("7").is_err() && connections("8").is_ok());
        assert_eq!(size("4096"), Ok(4_096));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("2 GiB"), Ok(2 << 30));
        for wrong in [
            "",
            "0",
            "0MiB",
            "MiB",
            "-1KiB",
            "64MB",
            "1.5GiB",
            "99999999999GiB",
        ] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(count("7"), Ok(7));
        for wrong in ["0", "-1", "x", ""] {
            assert!(count(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn users_and_groups_are_given_by_name_or_number() {
        assert_eq!((user("root"), group("4242")), (Ok(0), Ok(4242)));
        for wrong in ["", "no-such-name", "-1", "4294967295", "0x7", "root "] {
            assert!(user(wrong).is_err(), "{wrong:?}");
            assert!(group(wrong).is_err(), "{wrong:?}");
        }
    }
}
