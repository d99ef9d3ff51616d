//! The expected features of each kernel in each role. The tests in a guest receive them in
//! `REAPER_EXPECT` and `REAPER_REQUIRE`, and fail if a feature is missing, unexpectedly available, or
//! missing for another reason than stated here.
//!
//! The table was measured on 5.10, 6.1, 6.12 and 6.18. Before 6.6 the process connector needs
//! `CAP_NET_ADMIN`, since then no capability. It never acknowledges a listener outside the initial pid
//! namespace, and refuses one outside the initial network namespace. Since 6.6 it can filter by event.
//! Loading the probe needs `CAP_BPF` and `CAP_PERFMON`, but no tracefs. A pidfd needs no capability.

use clap::ValueEnum;

/// How a test binary is started in a guest. `tests/src/vm_guest/roles.rs` has the same names.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Role {
    Root,
    NetAdmin,
    Bpf,
    None,
    Pidns,
    Netns,
    Hidepid,
    NoTracefs,
    TimensMinus,
    TimensPlus,
    ForeignProc,
}

/// A test binary of the package `reaper-tests`, and the roles in which it runs.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) roles: &'static [Role],
}

/// The suites that run in the guests. They must not need the source tree at run time.
pub(crate) const SUITES: &[Suite] = &[
    suite("kernel_features", Role::ALL),
    suite("roles", Role::ALL),
    // Takes minutes per guest, so it runs only in the role in which every source works.
    suite("conformance", &[Role::Root]),
    // Not in role `bpf`: before 5.11 its limit of locked memory is too low for the maps.
    suite("probe", &[Role::Root]),
    // Only root can choose pids.
    suite("stress", &[Role::Root]),
    // Only root can set clocks, unmount /proc and shrink buffers.
    suite("system_faults", &[Role::Root]),
    suite("fault_injection", &[Role::Root]),
];

const fn suite(name: &'static str, roles: &'static [Role]) -> Suite {
    Suite { name, roles }
}

/// Returns whether a suite runs in a role. A suite that is not in the matrix runs in every role.
pub(crate) fn is_for(suite: &str, role: Role) -> bool {
    let known = SUITES.iter().find(|listed| listed.name == suite);
    known.is_none_or(|suite| suite.roles.contains(&role))
}

/// Returns whether a test may be skipped in a role. Root may skip two kinds of tests: an emulated machine
/// cannot start a program twice within a clock tick (the stress suite forces 1,000 such pid reuses with
/// forked processes), and a guest has no debuggers (other tests use a tracer of the test suite).
pub(crate) fn may_skip(role: Role, test: &str) -> bool {
    role != Role::Root
        || test.ends_with("::a_pid_reused_at_once_is_another_process")
        || ["_gdb_", "_strace_"].iter().any(|part| test.contains(part))
}

/// The expected state of a feature, and the reason if it is down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    Up,
    Down(&'static str),
}

/// The first two numbers of a kernel's version.
pub(crate) type Version = (u32, u32);

type Rule = fn(Version, Role) -> Expected;

/// Each feature and its expected state on a kernel in a role.
const FEATURES: &[(&str, Rule)] = &[
    ("netlink", netlink),
    ("netlink-mask", netlink_mask),
    ("rcvbuf-force", rcvbuf_force),
    ("bpf", bpf),
    ("ebpf", ebpf),
    ("pidfd", |_, _| Expected::Up),
    ("pidfd-inode", |kernel, _| {
        up_since((6, 9), kernel, "shared")
    }),
    ("procfs", procfs),
    ("tracefs", tracefs),
];

/// The features that are sources; the others affect how well these work.
const SOURCES: &[&str] = &["netlink", "ebpf", "pidfd"];

impl Role {
    pub(crate) const ALL: &'static [Self] = &[
        Self::Root,
        Self::NetAdmin,
        Self::Bpf,
        Self::None,
        Self::Pidns,
        Self::Netns,
        Self::Hidepid,
        Self::NoTracefs,
        Self::TimensMinus,
        Self::TimensPlus,
        Self::ForeignProc,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::NetAdmin => "net-admin",
            Self::Bpf => "bpf",
            Self::None => "none",
            Self::Pidns => "pidns",
            Self::Netns => "netns",
            Self::Hidepid => "hidepid",
            Self::NoTracefs => "no-tracefs",
            Self::TimensMinus => "timens-minus",
            Self::TimensPlus => "timens-plus",
            Self::ForeignProc => "foreign-proc",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Root => "root with every capability",
            Self::NetAdmin => "uid 65534 with `CAP_NET_ADMIN` only",
            Self::Bpf => "uid 65534 with `CAP_BPF` and `CAP_PERFMON` only",
            Self::None => "uid 65534 without capabilities",
            Self::Pidns => "root in a new pid namespace with a /proc of that namespace",
            Self::Netns => "root in a new network namespace",
            Self::Hidepid => "uid 65534 without capabilities, /proc mounted hidepid=2",
            Self::NoTracefs => "root where tracefs is not mounted",
            Self::TimensMinus => {
                "root in a time namespace whose clocks are behind the host's by different offsets"
            }
            Self::TimensPlus => {
                "root in a time namespace, 1,000 s ahead by `CLOCK_MONOTONIC` and 2,000 s by \
                 `CLOCK_BOOTTIME`"
            }
            Self::ForeignProc => {
                "root in a new pid namespace with the /proc of the parent namespace"
            }
        }
    }

    fn is_root(self) -> bool {
        matches!(
            self,
            Self::Root
                | Self::Pidns
                | Self::Netns
                | Self::NoTracefs
                | Self::TimensMinus
                | Self::TimensPlus
                | Self::ForeignProc
        )
    }
}

/// Returns the value of `REAPER_EXPECT`.
pub(crate) fn expectations(kernel: Version, role: Role) -> String {
    let cells = FEATURES
        .iter()
        .map(|(name, expected)| match expected(kernel, role) {
            Expected::Up => format!("{name}=up"),
            Expected::Down(reason) => format!("{name}=down:{reason}"),
        });
    cells.collect::<Vec<_>>().join(",")
}

/// Returns the value of `REAPER_REQUIRE`: the features that are expected to be up.
pub(crate) fn required(kernel: Version, role: Role) -> String {
    let up = FEATURES
        .iter()
        .filter(|(_, expected)| expected(kernel, role) == Expected::Up);
    up.map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

/// Returns a text with the sources that work and the reasons why the others do not.
pub(crate) fn summary(kernel: Version, role: Role) -> String {
    let mut up = Vec::new();
    let mut down = Vec::new();
    for (name, expected) in FEATURES.iter().filter(|(name, _)| SOURCES.contains(name)) {
        match expected(kernel, role) {
            Expected::Up => up.push(*name),
            Expected::Down(reason) => down.push(format!("no {name}: {reason}")),
        }
    }
    up.push("sweep");
    let reasons = if down.is_empty() {
        String::new()
    } else {
        format!(" ({})", down.join(", "))
    };
    up.join(", ") + &reasons
}

fn netlink(kernel: Version, role: Role) -> Expected {
    match role {
        Role::Netns => Expected::Down("ECONNREFUSED"),
        Role::Pidns | Role::ForeignProc => Expected::Down("no-ack"),
        Role::Root | Role::NetAdmin | Role::NoTracefs | Role::TimensMinus | Role::TimensPlus => {
            Expected::Up
        }
        Role::Bpf | Role::None | Role::Hidepid => up_since((6, 6), kernel, "EPERM"),
    }
}

fn netlink_mask(kernel: Version, role: Role) -> Expected {
    match netlink(kernel, role) {
        Expected::Up => up_since((6, 6), kernel, "ignored"),
        Expected::Down(_) => Expected::Down("netlink"),
    }
}

fn rcvbuf_force(_: Version, role: Role) -> Expected {
    up_if(role.is_root() || role == Role::NetAdmin, "EPERM")
}

fn bpf(_: Version, role: Role) -> Expected {
    up_if(role.is_root() || role == Role::Bpf, "EPERM")
}

/// The source does not start in another pid namespace, because the probe reports pids of the initial one.
/// Before 5.11 maps count as locked memory, and the limit of role `bpf` is too low for them.
fn ebpf(kernel: Version, role: Role) -> Expected {
    match role {
        Role::Pidns | Role::ForeignProc => Expected::Down("pid-namespace"),
        Role::Bpf => up_since((5, 11), kernel, "EPERM"),
        _ => bpf(kernel, role),
    }
}

fn procfs(_: Version, role: Role) -> Expected {
    match role {
        Role::Hidepid => Expected::Down("hidden"),
        Role::ForeignProc => Expected::Down("foreign"),
        _ => Expected::Up,
    }
}

fn tracefs(_: Version, role: Role) -> Expected {
    match role {
        Role::NoTracefs => Expected::Down("ENOENT"),
        _ => up_if(role.is_root(), "EACCES"),
    }
}

fn up_if(condition: bool, otherwise: &'static str) -> Expected {
    if condition {
        Expected::Up
    } else {
        Expected::Down(otherwise)
    }
}

fn up_since(first: Version, kernel: Version, otherwise: &'static str) -> Expected {
    up_if(kernel >= first, otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_contain_state_and_reason() {
        let none = expectations((6, 1), Role::None);
        assert!(
            none.starts_with("netlink=down:EPERM,netlink-mask=down:netlink,"),
            "{none}"
        );
        assert_eq!(required((6, 1), Role::None), "pidfd,procfs");
        assert_eq!(
            summary((6, 12), Role::NetAdmin),
            "netlink, pidfd, sweep (no ebpf: EPERM)"
        );
    }

    #[test]
    fn role_names_equal_those_of_the_command_line() {
        for role in Role::ALL {
            let value = role.to_possible_value().expect("no role is hidden");
            assert_eq!(value.get_name(), role.name());
        }
    }
}
