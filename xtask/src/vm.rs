//! `cargo xtask vm`: runs the tests on real kernels under QEMU, in every role. This file contains the order
//! of the steps; the expectations for each kernel and role are in `vm/matrix.rs`.
#![expect(clippy::print_stdout, reason = "a task's output is its report")]
#![expect(
    clippy::format_push_string,
    reason = "reports are small, and this is easier to read"
)]

mod binaries;
mod figures;
mod initramfs;
mod kernels;
mod matrix;
mod qemu;
mod report;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use self::kernels::Kernel;
use self::matrix::Role;
use self::qemu::{Guest, Outcome};
use crate::text::count;

/// The time limit of a guest for all suites: two to three times what it needs if two guests share two
/// processors.
const LIMIT: Duration = Duration::from_mins(40);
/// The same at full scale (`--full`).
const FULL_LIMIT: Duration = Duration::from_mins(90);

/// Run the test suites on real kernels under QEMU, in every role
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels to run, of 5.10, 6.1, 6.12, 6.18 and newest [default: all]
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,

    /// Also boot this kernel image; without --kernel, boot only this
    #[arg(long)]
    kernel_image: Vec<PathBuf>,

    /// Roles to run [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    role: Vec<Role>,

    /// Run only these suites of the matrix [default: all]
    #[arg(long, value_delimiter = ',')]
    suite: Vec<String>,

    /// Write docs/kernel-matrix.md even if not every suite ran; it then omits the others
    #[arg(long)]
    page: bool,

    /// Run only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,

    /// Run these test binaries instead of building the suites of the matrix
    #[arg(long)]
    test_binary: Vec<PathBuf>,

    /// Run the long suites at full scale, and write docs/kernel-figures.md; with `--suite stress --role
    /// root` this takes half an hour per guest
    #[arg(long)]
    full: bool,

    /// Seconds until a guest is considered hung [default: 2400, or 5400 with --full]
    #[arg(long)]
    time_limit: Option<u64>,

    /// How many guests run at a time [default: one per processor]
    #[arg(long)]
    jobs: Option<usize>,

    /// QEMU's -accel; use kvm if this machine supports it
    ///
    /// The default emulates a guest's two processors in one thread: in parallel, one boot of 160 crashed
    /// on a breakpoint that one processor was patching while the other executed it.
    #[arg(long, default_value = "tcg,thread=single")]
    accel: String,

    /// Fetch the newest kernels even if the cache contains some
    #[arg(long)]
    refresh: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let roles = if args.role.is_empty() {
        Role::ALL.to_vec()
    } else {
        args.role.clone()
    };
    let is_every_kernel = args.kernel.is_empty()
        && args.kernel_image.is_empty()
        && args.filter.is_none()
        && args.test_binary.is_empty();
    let is_whole_table = is_every_kernel && args.role.is_empty();
    ensure!(
        is_whole_table || !args.page,
        "--page needs all kernels and roles: omit the options that select some"
    );
    if let Some(filter) = &args.filter {
        let is_one_word = !filter.is_empty() && !filter.contains(char::is_whitespace);
        ensure!(
            is_one_word,
            "--filter must be one word, because it is passed on the kernel command line"
        );
    }

    let (kernels, mut failures) = find_kernels(args);
    let work = root().join("target/vm");
    std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    let built = binaries::build(&root(), &args.suite, &args.test_binary)?;
    let initrds = initramfs::build_for_roles(&work, &built, &roles)?;

    let guests = plan(args, &kernels, &roles, &work, &initrds);
    let outcomes = run_all(&guests, args.jobs);
    failures.extend(report::verdicts(&guests, &outcomes));
    if is_whole_table && (args.suite.is_empty() || args.page) {
        let page = report::page(&guests, &outcomes, &failures);
        write_page("docs/kernel-matrix.md", &page)?;
    }
    if is_every_kernel
        && args.full
        && failures.is_empty()
        && let Some(page) = figures::page(&guests, &outcomes)
    {
        write_page("docs/kernel-figures.md", &page)?;
    }
    for failure in &failures {
        println!("\nFAILURE {failure}");
    }
    if !failures.is_empty() {
        bail!(
            "{} on {}",
            count(failures.len(), "failure"),
            count(guests.len(), "guest")
        );
    }
    Ok(())
}

/// Returns the kernels that are available, and a message for each of the others.
fn find_kernels(args: &Args) -> (Vec<Kernel>, Vec<String>) {
    let mut wanted: Vec<&str> = args.kernel.iter().map(String::as_str).collect();
    if wanted.is_empty() && args.kernel_image.is_empty() {
        wanted.extend(kernels::ALIASES);
    }
    let mut found = Vec::new();
    let mut failures = Vec::new();
    let fetched = wanted
        .iter()
        .map(|alias| (*alias, kernels::fetch(alias, args.refresh)));
    let given = args
        .kernel_image
        .iter()
        .map(|path| ("image", Kernel::from_image("image", path)));
    for (alias, kernel) in fetched.chain(given) {
        match kernel {
            Ok(kernel) => {
                println!("kernel {alias}: {} ({})", kernel.release, kernel.package);
                found.push(kernel);
            }
            Err(error) => failures.push(format!("kernel {alias} is not available: {error:#}")),
        }
    }
    (found, failures)
}

fn plan<'run>(
    args: &Args,
    kernels: &'run [Kernel],
    roles: &[Role],
    work: &Path,
    initrds: &initramfs::Images,
) -> Vec<Guest<'run>> {
    let default_limit = if args.full { FULL_LIMIT } else { LIMIT };
    let time_limit = args.time_limit.map_or(default_limit, Duration::from_secs);
    let mut guests = Vec::new();
    for kernel in kernels {
        for role in roles {
            let Some(initrd) = initrds.get(role) else {
                continue;
            };
            guests.push(Guest {
                kernel,
                role: *role,
                initrd: initrd.clone(),
                filter: args.filter.clone(),
                full: args.full,
                time_limit,
                accel: args.accel.clone(),
                log: work.join(format!("{}-{}.log", kernel.release, role.name())),
            });
        }
    }
    guests
}

/// Runs every guest, even after failures, and returns the outcomes in their order.
fn run_all(guests: &[Guest<'_>], jobs: Option<usize>) -> Vec<Outcome> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let queue = Mutex::new((0..guests.len()).collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    let take = || queue.lock().ok()?.pop_front();
    std::thread::scope(|scope| {
        for _ in 0..jobs.unwrap_or(cpus).max(1) {
            scope.spawn(|| {
                while let Some(index) = take() {
                    let outcome = qemu::run(&guests[index]);
                    println!("{}", report::one_guest(&guests[index], &outcome));
                    if let Ok(mut done) = done.lock() {
                        done.push((index, outcome));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn write_page(name: &str, text: &str) -> anyhow::Result<()> {
    std::fs::write(root().join(name), text).context(name.to_owned())?;
    println!("wrote {name}");
    Ok(())
}

fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}
