//! The kernel version, for limits of old kernels that cannot be detected otherwise.

/// Returns whether this kernel is older than the given version; false if the version is unknown.
pub fn kernel_before(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(has_major), Some(has_minor)) => (has_major, has_minor) < (major, minor),
        _ => false,
    }
}
