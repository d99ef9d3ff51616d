//! `cargo xtask vm`: the tests on real kernels under QEMU, in every role that matters. This file
//! holds the order of things; what is expected of a kernel and role is in `vm/matrix.rs`.
#![expect(clippy::print_stdout, reason = "a task's report is its output")]
#![expect(
    clippy::format_push_string,
    reason = "reports are small, and read better so"
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

/// How long a guest may take with every suite, and with all that the long ones can do: two to three
/// times what it takes where two guests have two processors.
const LIMIT: Duration = Duration::from_mins(40);
const FULL_LIMIT: Duration = Duration::from_mins(90);

/// Run the test suites on real kernels under QEMU, in every role
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels to run, of 5.10, 6.1, 6.12, 6.18 and newest [default: all]
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,

    /// Boot this kernel image too, whatever it is; alone it replaces the list
    #[arg(long)]
    kernel_image: Vec<PathBuf>,

    /// Roles to run [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    role: Vec<Role>,

    /// Run only these suites of the matrix [default: all]
    #[arg(long, value_delimiter = ',')]
    suite: Vec<String>,

    /// Write the page though not every suite ran; it then has no word of the others
    #[arg(long)]
    page: bool,

    /// Run only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,

    /// Run these test binaries instead of building the suites of the matrix
    #[arg(long)]
    test_binary: Vec<PathBuf>,

    /// Run all of the long suites and not a share: with `--suite toll --role root` half an hour a
    /// guest, which writes docs/kernel-figures.md
    #[arg(long)]
    full: bool,

    /// Seconds until a guest counts as hung [default: 2400, and 5400 for the whole of the suites]
    #[arg(long)]
    time_limit: Option<u64>,

    /// Guests at a time [default: one a processor]
    #[arg(long)]
    jobs: Option<usize>,

    /// QEMU's -accel; kvm where this machine runs stock kernels under it
    ///
    /// The default emulates a guest's two processors in one thread: in parallel, one boot of 160
    /// died of a breakpoint that one processor was patching while the other ran into it.
    #[arg(long, default_value = "tcg,thread=single")]
    accel: String,

    /// Look for newer kernels even where the cache has one
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
        "a page of some kernels or roles would hide the others: leave the choice of them out"
    );
    if let Some(filter) = &args.filter {
        let is_word = !filter.is_empty() && !filter.contains(char::is_whitespace);
        ensure!(
            is_word,
            "a filter travels on the kernel command line: one word"
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
        bail!("{} failures on {} guests", failures.len(), guests.len());
    }
    Ok(())
}

/// The kernels that could be had, and why the others could not.
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
            Err(error) => failures.push(format!("kernel {alias} is not to be had: {error:#}")),
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

/// Runs every guest and answers in their order; a failure stops nothing.
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
