//! `cargo xtask build-ebpf [--check]`: builds the BPF objects that the daemon embeds.
//!
//! Uses the first compiler that is installed: Debian's `rustc-web`, which has a compiled `core` for BPF,
//! or a rustup nightly with `rust-src`, which compiles one. Installs nothing; if a tool is missing, the
//! error names the command that installs it.
#![expect(clippy::print_stderr, reason = "a task reports to the terminal")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "bpf";
const PROGRAMS: [&str; 2] = ["reaper-probe", "reaper-filter"];
/// The file with the versions of the tools: other versions build other bytes from the same source.
const BUILT_WITH: &str = "built-with.txt";

const INSTALL: &str = "on Debian run `.ci/install-bpf-toolchain`, which is
    apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf llvm-22-dev
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \\
        --no-default-features --features llvm-22 --root target/bpf-tools
elsewhere
    rustup toolchain install nightly --component rust-src
    cargo install bpf-linker --locked   (its LLVM must not be older than the compiler's)";

/// Builds the objects, and writes them to `prebuilt/` or compares them with those there.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is not in a workspace")?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let toolchain = Toolchain::find(&target)?;
    let objects = toolchain.build(root, &target.join("bpf"))?;
    let prebuilt = root.join("reaper-ebpf/prebuilt");
    if check {
        compare(&prebuilt, &objects, &toolchain)
    } else {
        store(&prebuilt, &objects, &toolchain)
    }
}

/// The file name in `prebuilt/`, and the bytes.
type Object = (String, Vec<u8>);

fn store(prebuilt: &Path, objects: &[Object], toolchain: &Toolchain) -> anyhow::Result<()> {
    fs::create_dir_all(prebuilt)?;
    for (name, bytes) in objects {
        let path = prebuilt.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {} ({} bytes)", path.display(), bytes.len());
    }
    fs::write(prebuilt.join(BUILT_WITH), &toolchain.description)?;
    Ok(())
}

fn compare(prebuilt: &Path, objects: &[Object], toolchain: &Toolchain) -> anyhow::Result<()> {
    let differing: Vec<&str> = objects
        .iter()
        .filter(|(name, bytes)| fs::read(prebuilt.join(name)).ok().as_ref() != Some(bytes))
        .map(|(name, _)| name.as_str())
        .collect();
    if differing.is_empty() {
        eprintln!("reaper-ebpf/prebuilt equals a fresh build");
        return Ok(());
    }
    let differing = differing.join(" and ");
    let recorded = fs::read_to_string(prebuilt.join(BUILT_WITH)).unwrap_or_default();
    if recorded == toolchain.description {
        bail!(
            "reaper-ebpf/prebuilt: {differing} differs from a fresh build; \
             run `cargo xtask build-ebpf` and commit the result"
        );
    }
    bail!(
        "reaper-ebpf/prebuilt: {differing} cannot be compared, because it was built with\n\
         {recorded}and this machine has\n{here}use the former versions, or run `cargo xtask build-ebpf` and \
         commit objects and {BUILT_WITH} together",
        here = toolchain.description
    )
}

struct Toolchain {
    rustc: PathBuf,
    /// The cargo of the same toolchain, if `core` must be built first.
    build_std: Option<PathBuf>,
    linker: PathBuf,
    description: String,
}

impl Toolchain {
    fn find(target: &Path) -> anyhow::Result<Self> {
        let compiler = debian_compiler().or_else(rustup_compiler);
        let linker = find_linker(target);
        let (Some((rustc, build_std)), Some(linker)) = (&compiler, &linker) else {
            let mut missing = Vec::new();
            if compiler.is_none() {
                missing.push(
                    "a compiler for BPF (/usr/bin/rustc has no core for bpfel-unknown-none, and \
                     rustup has no nightly with rust-src)",
                );
            }
            if linker.is_none() {
                missing.push("bpf-linker (neither in target/bpf-tools/bin nor on PATH)");
            }
            bail!("build-ebpf lacks {}\n{INSTALL}", missing.join(", and "));
        };
        let version =
            output(Command::new(rustc).arg("-vV")).context("the compiler does not run")?;
        let of = |key: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap_or("unknown")
                .to_owned()
        };
        let linker_version =
            output(Command::new(linker).arg("--version")).context("bpf-linker does not run")?;
        let description = format!(
            "rustc {}\nLLVM {}\n{linker_version}\n",
            of("release: "),
            of("LLVM version: ")
        );
        Ok(Self {
            rustc: rustc.clone(),
            build_std: build_std.clone(),
            linker: linker.clone(),
            description,
        })
    }

    fn build(&self, root: &Path, target: &Path) -> anyhow::Result<Vec<Object>> {
        let cargo = self.build_std.clone().unwrap_or_else(|| {
            env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
        });
        let mut command = Command::new(cargo);
        command.current_dir(root);
        // Flags, wrappers and toolchains in the environment are for the host.
        for (name, _) in env::vars_os() {
            let prefixes = [
                "RUSTC",
                "RUSTFLAGS",
                "CARGO_BUILD_",
                "CARGO_PROFILE_",
                "CARGO_TARGET_",
                "CARGO_ENCODED_",
            ];
            if prefixes
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        let rustflags = [
            "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        command
            .env("RUSTC", &self.rustc)
            // aya-ebpf enables unstable features, which a stable compiler allows only with this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
            .args(["build", "--locked", "--package", "reaper-ebpf", "--bins"])
            .args([
                "--features",
                "program",
                "--target",
                TARGET,
                "--profile",
                PROFILE,
            ])
            .arg("--target-dir")
            .arg(target);
        if self.build_std.is_some() {
            command.args(["-Z", "build-std=core"]);
        }
        let status = command.status().context("cargo does not run")?;
        ensure!(
            status.success(),
            "the BPF build failed; if the linker could not read a module, its LLVM is older than the \
             compiler's:\n{}",
            self.description
        );
        let folder = target.join(TARGET).join(PROFILE);
        PROGRAMS
            .iter()
            .map(|program| {
                let path = folder.join(program);
                let bytes = fs::read(&path)
                    .with_context(|| format!("the build did not write {}", path.display()))?;
                Ok((format!("{program}.o"), bytes))
            })
            .collect()
    }
}

type Compiler = (PathBuf, Option<PathBuf>);

/// Returns Debian's compiler if the package with `core` for BPF is installed too.
fn debian_compiler() -> Option<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let libraries =
        output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET])).ok()?;
    let has_core = fs::read_dir(libraries)
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
    has_core.then_some((rustc, None))
}

/// Returns rustup's nightly if the source of the standard library is installed too.
fn rustup_compiler() -> Option<Compiler> {
    let sysroot =
        output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
            .ok()?;
    let sysroot = PathBuf::from(sysroot);
    let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    source
        .exists()
        .then(|| (sysroot.join("bin/rustc"), Some(sysroot.join("bin/cargo"))))
}

/// Returns the linker that the install script has built, or the first on `PATH`.
fn find_linker(target: &Path) -> Option<PathBuf> {
    let private = target.join("bpf-tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(private)
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
