//! reaperd as a library.
/// Where hints of death come from.
pub mod sources {
    /// The exit probe.
    pub mod ebpf {
        pub mod btf;
    }
}
