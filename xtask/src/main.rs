//! Every repeated developer action.
mod build_ebpf;

use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Task {
    /// Build the BPF objects into `reaper-ebpf/prebuilt`
    BuildEbpf {
        /// Compare a fresh build with the checked-in objects instead of replacing them
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::BuildEbpf { check } => build_ebpf::run(check),
    }
}
