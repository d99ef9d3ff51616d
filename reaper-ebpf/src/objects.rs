//! The built programs, as `cargo xtask build-ebpf` left them in `prebuilt/`.
//!
//! Checked in, so that a plain `cargo build` needs no BPF toolchain; `build-ebpf --check` compares
//! them with a fresh build. The bytes end up only in binaries that name them.

/// Object parsers read 64-bit headers in place.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

/// ELF object of the probe, little endian, for every such architecture.
pub static PROBE: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/reaper-probe.o"));
    &OBJECT.0
};

/// ELF object of the socket filter, little endian, for every such architecture.
pub static FILTER: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/reaper-filter.o"));
    &OBJECT.0
};
