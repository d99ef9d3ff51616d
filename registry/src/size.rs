//! The size of a session: what it is charged to its owner.

use std::mem::size_of;

use crate::labels::{Label, Labels};
use crate::members::Member;
use crate::presence::{Attestation, Presence};
use crate::process::Process;
use crate::session::{Details, NewSession, Session};

/// What a heap block can take beyond the bytes that it holds. The smallest block of glibc has 32 bytes;
/// larger ones have a header of 8 and are rounded up to 16.
const BLOCK: usize = 32;
/// The reference counts of an `Arc`.
const COUNTS: usize = 2 * size_of::<usize>();
/// The slots of one session in the indexes: 8 to 32 bytes in each of five B-trees, whose nodes are at
/// least half full after an insertion in order, and one slot of a hash table that has just doubled.
const INDEXES: usize = 320;
/// The slot of one process in the index of processes.
const MEMBER_INDEX: usize = 64;

impl NewSession {
    /// Returns how many sessions it counts as in the limits: one for each of its processes.
    pub(crate) fn weight(&self) -> usize {
        1 + self.further.len()
    }

    /// Returns all of its processes.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.process).chain(&self.further)
    }

    /// Returns an upper bound of the memory, in bytes, that the registry takes for this session as long as
    /// it is live: the [`Session`], all of its text and keys, and its slots in the indexes. This is what
    /// counts towards [`Limits::bytes`](crate::Limits::bytes).
    ///
    /// Each heap block is counted with 32 bytes more than it holds. Not included are hooks that wait, the
    /// history, and what the caller keeps for the process.
    pub fn bytes(&self) -> usize {
        let Self {
            id,
            token: _in_the_digest,
            process: _inline,
            further,
            owner: _inline_too,
            details,
            presence,
            ttl: _granted,
        } = self;
        size_of::<Session>()
            + COUNTS
            + BLOCK
            + INDEXES
            + COUNTS
            + text(id.as_str())
            + of_members(further.len())
            + of_details(details)
            + presence.as_ref().map_or(0, of_presence)
    }
}

/// Of all members, with one more slot in an index for each beyond the first.
fn of_members(further: usize) -> usize {
    if further == 0 {
        return 0;
    }
    (1 + further) * size_of::<Member>()
        + size_of::<Vec<Member>>()
        + COUNTS
        + 2 * BLOCK
        + further * MEMBER_INDEX
}

fn of_details(details: &Details) -> usize {
    let Details {
        mesh,
        display_name,
        cwd,
        role,
        groups,
        labels,
        token_file,
    } = details;
    let optional: usize = [cwd, role, token_file]
        .into_iter()
        .flatten()
        .map(|it| text(it))
        .sum();
    let each_group: usize = groups
        .iter()
        .map(|group| text(group) + size_of::<Box<str>>())
        .sum();
    text(mesh) + text(display_name) + optional + each_group + BLOCK + of_labels(labels)
}

fn of_labels(labels: &Labels) -> usize {
    if labels.is_empty() {
        return 0;
    }
    let each = labels
        .iter()
        .map(|(key, value)| text(key) + text(value) + size_of::<Label>());
    each.sum::<usize>() + BLOCK
}

fn of_presence(presence: &Presence) -> usize {
    let Presence {
        session_pubkey,
        secret_key,
        attestation,
    } = presence;
    let Attestation {
        session_pubkey: attested,
        parent_member_pubkey,
        expires_at: _inline,
        signature,
    } = attestation;
    let texts: usize = [session_pubkey, attested, parent_member_pubkey, signature]
        .into_iter()
        .map(|it| text(it))
        .sum();
    // The key is a block of its own behind an `Arc`.
    texts + secret_key.expose().len() + BLOCK + COUNTS + size_of::<usize>() + BLOCK
}

fn text(text: &str) -> usize {
    text.len() + BLOCK
}
