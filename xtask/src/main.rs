//! Every repeated developer action.

mod vm;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
enum Command {
    Vm(vm::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Vm(args) => vm::run(&args),
    }
}
