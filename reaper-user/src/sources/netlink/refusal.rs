//! Error texts of the connector: which call failed and how, and what would fix it.

use std::io;

use crate::sources::{SourceError, namespaces};

/// The socket could not be opened.
pub(super) fn socket(error: &io::Error) -> SourceError {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT) => SourceError::new(
            "this kernel has no connector",
            "use a kernel with CONFIG_CONNECTOR=y and CONFIG_PROC_EVENTS=y",
        ),
        Some(libc::EAFNOSUPPORT | libc::EPERM | libc::EACCES) => SourceError::new(
            format!("netlink sockets are not allowed here: {error}"),
            "allow AF_NETLINK (RestrictAddressFamilies=, seccomp profile)",
        ),
        _ => failed("socket", error),
    }
}

/// The group of process events could not be joined.
pub(super) fn bind(error: &io::Error) -> SourceError {
    if error.raw_os_error() == Some(libc::EPERM) {
        unprivileged()
    } else {
        failed("bind", error)
    }
}

/// The request could not be sent.
pub(super) fn send(error: &io::Error) -> SourceError {
    // The kernel's end of the connector exists only in the initial network namespace.
    if error.raw_os_error() == Some(libc::ECONNREFUSED) {
        return misplaced(std::iter::once("network").chain(private_namespaces()));
    }
    failed("send", error)
}

/// The kernel acknowledged the request with this error number.
pub(super) fn error_ack(error: u32) -> SourceError {
    match i32::try_from(error) {
        Ok(libc::EPERM) => unprivileged(),
        Ok(number) => failed("LISTEN", &io::Error::from_raw_os_error(number)),
        Err(_) => SourceError::new(format!("LISTEN was refused with error {error}"), ""),
    }
}

/// The kernel did not acknowledge the request.
pub(super) fn no_ack() -> SourceError {
    let mut private = private_namespaces().peekable();
    if private.peek().is_some() {
        return misplaced(private);
    }
    SourceError::new(
        "the kernel does not acknowledge the subscription",
        "use a kernel with CONFIG_PROC_EVENTS=y",
    )
}

/// The request was acknowledged, but exits do not arrive.
pub(super) fn canaries_missed() -> SourceError {
    SourceError::new(
        "the exits of two of our own threads in a row were not reported",
        "none needed if it passes; Linux 6.6.13 to 6.6.17 and 6.7.1 to 6.7.5 have a bug that causes it",
    )
}

/// Any other failure of a call.
pub(super) fn failed(call: &str, error: &io::Error) -> SourceError {
    SourceError::new(format!("{call}: {error}"), "")
}

fn unprivileged() -> SourceError {
    SourceError::new(
        "CAP_NET_ADMIN is missing, which kernels before 6.6 require",
        "grant CAP_NET_ADMIN, or use Linux 6.6 or newer",
    )
}

fn misplaced<'a>(namespaces: impl Iterator<Item = &'a str>) -> SourceError {
    let names: Vec<_> = namespaces.collect();
    SourceError::new(
        format!(
            "not in the initial {} namespace, and the kernel sends exits to no other",
            names.join(", ")
        ),
        "run in the host's network, pid and user namespaces (PrivateNetwork=no, PrivateUsers=no; \
         --network=host --pid=host --userns=host)",
    )
}

/// Returns our private namespaces. The network namespace is checked in another way.
fn private_namespaces() -> impl Iterator<Item = &'static str> {
    let pid = (!namespaces::in_initial_pid()).then_some("pid");
    let user = (!namespaces::in_initial_user()).then_some("user");
    pid.into_iter().chain(user)
}
