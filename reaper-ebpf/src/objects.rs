//! The compiled programs, from `prebuilt/`, where `cargo xtask build-ebpf` writes them.
//!
//! They are checked in, so that `cargo build` needs no BPF toolchain. `cargo xtask build-ebpf --check`
//! compares them with a fresh build. A binary contains only those that it uses.

/// Aligns the bytes, because object parsers read 64-bit headers in place.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

/// The ELF object of the probe, for every little-endian architecture.
pub static PROBE: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/reaper-probe.o"));
    &OBJECT.0
};

/// The ELF object of the socket filter, for every little-endian architecture.
pub static FILTER: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/reaper-filter.o"));
    &OBJECT.0
};
