//! Tests of the VM harness: each role has the privileges and namespaces of its definition, and the
//! kernel offers what `xtask/src/vm/matrix.rs` expects. They test the kernel only, not the daemon.
//! Outside a guest, the role is `root` or `none`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::env;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;

use reaper_tests::connector::{self, Connector, Operation, ProcEvent};
use reaper_tests::expect::{self, State, skip};
use reaper_tests::sys::{self, BpfCommand};
use reaper_tests::time_namespace::Offsets;
use reaper_tests::vm_guest::Role;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::CONNECTOR;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

fn role() -> Role {
    let outside = if rustix::process::geteuid().is_root() {
        "root"
    } else {
        "none"
    };
    Role::from_str(expect::role().as_deref().unwrap_or(outside)).unwrap()
}

fn in_guest() -> bool {
    expect::role().is_some()
}

fn short_lived_child() -> Child {
    let own = env::current_exe().unwrap();
    Command::new(own)
        .arg("--list")
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The state for an error, with its name as the expectations spell it.
fn reason(errno: Errno) -> State {
    State::down(match errno {
        Errno::PERM => "EPERM",
        Errno::ACCESS => "EACCES",
        Errno::NOENT => "ENOENT",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::NOSYS => "ENOSYS",
        _ => return State::Down(format!("{errno:?}")),
    })
}

fn state_of<T>(result: std::io::Result<T>) -> State {
    match result {
        Ok(_) => State::Up,
        Err(error) => reason(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

#[test]
fn user_and_capabilities_are_those_of_the_role() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let set = |name: &str| u64::from_str_radix(&field(name)[0], 16).unwrap();
    if !in_guest() {
        println!(
            "outside a guest: uid {}, CapEff {:x}",
            field("Uid:")[0],
            set("CapEff:")
        );
        return;
    }
    assert_eq!(field("Uid:"), vec![role().uid().to_string(); 4]);
    assert_eq!(field("Gid:"), vec![role().uid().to_string(); 4]);
    assert_eq!(field("Groups:"), Vec::<String>::new());
    let Some(expected) = role().capabilities() else {
        let every_known = (1 << 41) - 1;
        assert_eq!(set("CapEff:") & every_known, every_known);
        return;
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(set(name), expected.bits(), "{name}");
    }
}

#[test]
fn namespaces_differ_from_those_of_init_only_in_their_roles() {
    let pid_roles: &[Role] = &[Role::Pidns, Role::ForeignProc];
    let time_roles: &[Role] = &[Role::TimensMinus, Role::TimensPlus];
    for (kind, variable, private_in) in [
        ("pid", "REAPER_INIT_PID_NS", pid_roles),
        ("net", "REAPER_INIT_NET_NS", &[Role::Netns]),
        ("time", "REAPER_INIT_TIME_NS", time_roles),
    ] {
        let Ok(of_init) = env::var(variable) else {
            println!("outside a guest: the {kind} namespace of init is unknown");
            continue;
        };
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let differs = own != Path::new(&of_init);
        assert_eq!(
            differs,
            private_in.contains(&role()),
            "{kind}: own {own:?}, init's {of_init}"
        );
    }
}

#[test]
fn proc_shows_the_own_pid_namespace_except_in_its_role() {
    let shown = fs::read_link("/proc/self").unwrap();
    let is_own = shown == Path::new(&std::process::id().to_string());
    assert_eq!(is_own, role() != Role::ForeignProc, "{shown:?}");
    if in_guest() {
        // kthreadd is process 2 of the initial namespace, and invisible in any other.
        let kthreadd = fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n");
        assert_eq!(kthreadd, !matches!(role(), Role::Pidns | Role::Hidepid));
    }
}

/// `NSpid` lists our pids from the namespace of the mount down to our own.
fn proc_is_foreign() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.unwrap().split_whitespace().count() > 1
}

#[test]
fn clock_offsets_are_those_of_the_role() {
    let Ok(text) = fs::read_to_string("/proc/self/timens_offsets") else {
        println!("this kernel has no time namespaces");
        return;
    };
    let of_clock = |line: &str| -> i64 {
        let mut numbers = line.split_whitespace().skip(1);
        let mut number = || numbers.next().unwrap().parse::<i64>().unwrap();
        number() * 1_000_000_000 + number()
    };
    let lines: Vec<_> = text.lines().map(of_clock).collect();
    let shown = Offsets {
        monotonic_ns: lines[0],
        boottime_ns: lines[1],
    };
    match role() {
        Role::TimensPlus => assert_eq!(shown, Offsets::AHEAD),
        Role::TimensMinus => {
            let Offsets {
                monotonic_ns,
                boottime_ns,
            } = shown;
            assert!(monotonic_ns < boottime_ns && boottime_ns < 0, "{shown:?}");
        }
        _ if in_guest() => assert_eq!(lines, [0, 0]),
        _ => println!("outside a guest: {shown:?}"),
    }
}

#[test]
fn hidepid_hides_other_users_processes() {
    let seen = match fs::read("/proc/1/stat") {
        Ok(_) if proc_is_foreign() => State::down("foreign"),
        Ok(_) => State::Up,
        Err(error) if error.kind() == ErrorKind::NotFound => State::down("hidden"),
        Err(error) => panic!("/proc/1/stat: {error}"),
    };
    expect::check("procfs", &seen);
    assert!(
        Path::new("/proc/self/stat").exists(),
        "a user's own processes are never hidden"
    );
    assert!(
        pidfd_open(Pid::INIT, PidfdFlags::empty()).is_ok(),
        "a pidfd needs no procfs"
    );
}

#[test]
fn tracefs_is_readable_where_expected() {
    let id = "/sys/kernel/tracing/events/sched/sched_process_exit/id";
    expect::check("tracefs", &state_of(fs::read(id)));
}

#[test]
fn loopback_and_the_working_folders_are_usable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    for folder in [
        env::temp_dir(),
        env::var("XDG_RUNTIME_DIR").unwrap_or_default().into(),
    ] {
        if folder.as_os_str().is_empty() {
            continue;
        }
        drop(tempfile::tempfile_in(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")));
    }
}

#[test]
fn the_daemon_is_in_the_guest_and_starts() {
    let Ok(daemon) = env::var("REAPERD_BIN") else {
        skip("REAPERD_BIN is not set");
        return;
    };
    let status = Command::new(daemon)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "reaperd --version: {status}");
}

#[test]
fn a_pidfd_becomes_readable_on_exit() {
    let mut child = short_lived_child();
    let pid = Pid::from_child(&child);
    let seen = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) if readable(&fd, 10) => State::Up,
        Ok(_) => State::down("silent"),
        Err(errno) => reason(errno),
    };
    child.wait().unwrap();
    expect::check("pidfd", &seen);
    assert_eq!(
        pidfd_open(pid, PidfdFlags::empty()).err(),
        Some(Errno::SRCH)
    );
}

#[test]
fn pidfds_of_two_processes_have_different_inodes_where_expected() {
    let inode = |pid| {
        let fd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        rustix::fs::fstat(fd).unwrap().st_ino
    };
    let own = inode(rustix::process::getpid());
    let seen = if own == inode(Pid::INIT) {
        State::down("shared")
    } else {
        State::Up
    };
    expect::check("pidfd-inode", &seen);
}

#[test]
fn bpf_is_allowed_where_expected() {
    let seen = match (
        sys::bpf(BpfCommand::MapCreate, &mut ring_buffer()),
        load_program(),
    ) {
        (Ok(_), Ok(_)) => State::Up,
        (Err(error), _) | (_, Err(error)) => state_of::<()>(Err(error)),
    };
    expect::check("bpf", &seen);
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    assert!(
        !in_guest() || btf.exists(),
        "every kernel of the matrix has BTF"
    );
}

/// `map_type` `BPF_MAP_TYPE_RINGBUF` of one page: needs `CAP_BPF` (linux/bpf.h, `union bpf_attr`).
fn ring_buffer() -> [u64; 16] {
    let mut attributes = [0; 16];
    attributes[0] = 27;
    attributes[1] = 4096 << 32;
    attributes
}

/// A raw tracepoint program that returns 0: needs `CAP_BPF` and `CAP_PERFMON`, and is not attached.
fn load_program() -> std::io::Result<OwnedFd> {
    // `r0 = 0; exit`, each instruction as a little-endian word.
    let program: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attributes = [0; 16];
    let (program_type, instructions) = (17_u64, 2_u64);
    attributes[0] = program_type | instructions << 32;
    attributes[1] = program.as_ptr().addr() as u64;
    attributes[2] = licence.as_ptr().addr() as u64;
    sys::bpf(BpfCommand::ProgLoad, &mut attributes)
}

#[test]
fn the_connector_acknowledges_a_listener_where_expected() {
    let joined = Connector::join().and_then(|it| Ok((it.request(Operation::Listen)?, it)));
    let seen = match &joined {
        Ok((true, _)) => State::Up,
        Ok((false, _)) => State::down("no-ack"),
        Err(errno) => reason(*errno),
    };
    expect::check("netlink", &seen);
    let Ok((true, connector)) = joined else {
        return expect::check("netlink-mask", &State::down("netlink"));
    };
    connector.set_mask(connector::EXIT).unwrap();
    let mut child = short_lived_child();
    let pid = child.id();
    child.wait().unwrap();
    let mut seen = State::Up;
    loop {
        match connector.receive().expect("the child's exit") {
            ProcEvent::Exited(process) if process == pid => break,
            // Events of other processes from before the mask was set may still be queued.
            ProcEvent::Started(process) if process == pid => seen = State::down("ignored"),
            _ => {}
        }
    }
    expect::check("netlink-mask", &seen);
}

#[test]
fn a_receive_buffer_can_exceed_the_system_limit_where_expected() {
    let flags = SocketFlags::CLOEXEC;
    let family = AddressFamily::NETLINK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(CONNECTOR)).unwrap();
    let forced = sockopt::set_socket_recv_buffer_size_force(socket, 8 << 20);
    expect::check("rcvbuf-force", &forced.map_or_else(reason, |()| State::Up));
}

fn readable(fd: impl AsFd, seconds: i64) -> bool {
    let limit = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() == 1
}
