//! The `reaperd` binary. All code is in the library.

use std::process::ExitCode;

/// Secrets may have been in memory that is freed.
#[global_allocator]
static ALLOCATOR: reaperd::cli::ZeroingAllocator = reaperd::cli::ZeroingAllocator;

fn main() -> ExitCode {
    reaperd::cli::main()
}
