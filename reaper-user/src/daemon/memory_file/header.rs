//! The header: whose file it is, which step was the last, and the counters.

use std::io;
use std::sync::atomic::Ordering;

use reaper_registry::Counters;

use super::blocks::{BLOCK, Blocks};
use crate::daemon::carried::TABLE_FORMAT as FORMAT;
use crate::sys::shared_file::SharedFile;

const MAGIC: u64 = u64::from_le_bytes(*b"reaperd\n");
/// The oldest format that is read.
const OLDEST: u32 = 1;

/// Where the words are. Each of the two sets of counters has eight.
const MAGIC_AT: usize = 0;
const FORMAT_AT: usize = 8;
const BOOT_AT: usize = 16;
const NAMESPACE_AT: usize = 32;
const EPOCH_AT: usize = 40;
const TOKEN_KEY_AT: usize = 48;
const COMMITTED_AT: usize = 56;
const COUNTERS_AT: [usize; 2] = [64, 128];
const VERSION_AT: usize = 192;
/// The longest version that is written.
const VERSION: usize = 32;
const NO_SLOT: u64 = u64::MAX;

/// What the state belongs to. Processes are recognised within one boot and one pid namespace only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) boot: [u8; 16],
    pub(crate) pid_namespace: u64,
    /// The first part of the ids of events.
    pub(crate) epoch: u64,
    /// The slot of the key under which tokens are digested.
    pub(crate) token_key: Option<u32>,
}

impl Identity {
    /// Returns that of this boot and namespace.
    pub(crate) fn of_this_process(epoch: u64, token_key: Option<u32>) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(Self {
            boot: boot.to_le_bytes(),
            pid_namespace: std::fs::metadata("/proc/self/ns/pid")?.ino(),
            epoch,
            token_key,
        })
    }
}

/// Why a memory file is not used. It is left as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is not a memory file of reaperd")]
    Foreign,
    #[error("reaperd {program} wrote it in format {format}, and this version reads up to {FORMAT}")]
    Newer { program: String, format: u32 },
    #[error(
        "reaperd {program} wrote it in format {format}, and this version reads from {OLDEST} on"
    )]
    Older { program: String, format: u32 },
    #[error("it was written before the last boot")]
    OtherBoot,
    #[error("it was written in another pid namespace")]
    OtherNamespace,
    #[error("it cannot be read: {0}")]
    System(#[from] io::Error),
}

/// What the header of a file has.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) identity: Identity,
    pub(super) program: String,
    pub(super) counters: Counters,
    pub(super) next_process: u64,
}

/// Writes the header of a new file. It counts as one with the last word.
pub(super) fn write(file: &SharedFile, identity: &Identity) {
    let Identity {
        boot,
        pid_namespace,
        epoch,
        token_key,
    } = identity;
    let word = |at: usize, value: u64| file.word(at).store(value, Ordering::Release);
    begin(file);
    file.write(BOOT_AT, boot);
    word(NAMESPACE_AT, *pid_namespace);
    word(EPOCH_AT, *epoch);
    word(TOKEN_KEY_AT, token_key.map_or(NO_SLOT, u64::from));
    word(MAGIC_AT, MAGIC);
}

/// Names the format and the program of what is written from now on. A file of a former format gets the
/// present one with its first change, so that a former program does not read the rest of it only.
pub(super) fn begin(file: &SharedFile) {
    let mut program = [0; VERSION];
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let length = version.len().min(VERSION);
    program[..length].copy_from_slice(&version[..length]);
    file.write(VERSION_AT, &program);
    set_format(file, FORMAT);
}

/// Reads the header, and refuses a file that is of no use here.
pub(super) fn read(file: &SharedFile, here: &Identity) -> Result<Header, Unusable> {
    let word = |at: usize| file.word(at).load(Ordering::Acquire);
    if word(MAGIC_AT) != MAGIC {
        return Err(Unusable::Foreign);
    }
    let mut program = [0; VERSION];
    file.read(VERSION_AT, &mut program);
    let program = String::from_utf8_lossy(&program);
    let program = program.trim_end_matches('\0').to_owned();
    let format = u32::try_from(word(FORMAT_AT) & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    if format > FORMAT {
        return Err(Unusable::Newer { program, format });
    }
    if format < OLDEST {
        return Err(Unusable::Older { program, format });
    }
    let mut boot = [0; 16];
    file.read(BOOT_AT, &mut boot);
    let identity = Identity {
        boot,
        pid_namespace: word(NAMESPACE_AT),
        epoch: word(EPOCH_AT),
        token_key: u32::try_from(word(TOKEN_KEY_AT)).ok(),
    };
    if identity.boot != here.boot {
        return Err(Unusable::OtherBoot);
    }
    if identity.pid_namespace != here.pid_namespace {
        return Err(Unusable::OtherNamespace);
    }
    let at = counters_at(committed(file));
    Ok(Header {
        identity,
        program,
        counters: Counters {
            next_entry: word(at),
            next_seq: word(at + 8),
            dropped: word(at + 16),
            forgotten: word(at + 24),
        },
        next_process: word(at + 32),
    })
}

/// From now on this is not a memory file.
pub(super) fn invalidate(file: &SharedFile) {
    file.word(MAGIC_AT).store(0, Ordering::Release);
}

/// Returns the number of the last complete step.
pub(super) fn committed(file: &SharedFile) -> u64 {
    file.word(COMMITTED_AT).load(Ordering::Acquire)
}

/// Completes a step: all that was written with this number counts from now on.
pub(super) fn commit(blocks: &Blocks, step: u64, counters: Counters, next_process: u64) {
    let Counters {
        next_entry,
        next_seq,
        dropped,
        forgotten,
    } = counters;
    let words = [next_entry, next_seq, dropped, forgotten, next_process];
    for (index, word) in words.into_iter().enumerate() {
        blocks.store_at(counters_at(step) + 8 * index, word);
    }
    blocks.store_in_order(COMMITTED_AT, step);
}

const fn counters_at(step: u64) -> usize {
    COUNTERS_AT[(step % 2) as usize]
}

#[cfg(test)]
pub(super) fn format(file: &SharedFile) -> u64 {
    file.word(FORMAT_AT).load(Ordering::Acquire) & u64::from(u32::MAX)
}

pub(super) fn set_format(file: &SharedFile, format: u32) {
    let word = u64::from(format) | (BLOCK as u64) << 32;
    file.word(FORMAT_AT).store(word, Ordering::Release);
}
