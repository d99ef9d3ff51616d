//! The `reaperd` binary.
fn main() {}
