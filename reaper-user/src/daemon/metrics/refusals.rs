//! How many requests and connections were refused, by reason: the `code` of the error that was sent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Every code, as in the table of `docs/http-api.md`, in its order. A fixed list: the label has no other
/// values, each has a value from the start, and counting allocates nothing.
const REASONS: [&str; 61] = [
    "bare_line_feed",
    "folded_line",
    "bad_request_line",
    "bad_field_name",
    "bad_field_value",
    "bad_content_length",
    "two_content_lengths",
    "both_length_fields",
    "bad_transfer_encoding",
    "bad_host_field",
    "broken_body",
    "token_in_query",
    "two_authorizations",
    "invalid_query",
    "missing_body",
    "invalid_json",
    "invalid_token",
    "no_session_token",
    "malformed_session_token",
    "unknown_session",
    "session_gone",
    "missing_bearer",
    "invalid_bearer",
    "forbidden_host",
    "forbidden_origin",
    "not_your_process",
    "not_yourself",
    "process_hidden",
    "foreign_pid_namespace",
    "user_not_allowed",
    "peer_gone",
    "other_user",
    "needs_token",
    "replace_not_allowed",
    "not_found",
    "body_timeout",
    "token_in_use",
    "ambiguous_session",
    "needs_old_token",
    "other_format",
    "replace_in_progress",
    "refused",
    "payload_too_large",
    "field_required",
    "invalid_field",
    "duplicate_field",
    "invalid_pid",
    "process_gone",
    "thread_id",
    "kernel_thread",
    "own_pid",
    "too_many_sessions",
    "too_many_sessions_of_user",
    "too_many_streams",
    "too_many_requests",
    "too_many_connections",
    "too_many_bytes",
    "too_many_bytes_of_user",
    "head_too_large",
    "not_now",
    "no_broker",
];
/// The reason of codes that are not in the list.
const OTHER: &str = "other";

#[derive(Debug)]
pub(super) struct Refusals {
    counts: [AtomicU64; REASONS.len()],
    other: AtomicU64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            other: AtomicU64::new(0),
        }
    }
}

impl Refusals {
    /// Searches the list, because refusals are few beside what else they cost.
    pub(super) fn add(&self, code: &str) {
        let place = REASONS.iter().position(|reason| *reason == code);
        let counter = place.map_or(&self.other, |place| &self.counts[place]);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = REASONS.into_iter().zip(&self.counts);
        let all = known.chain([(OTHER, &self.other)]);
        all.map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_is_counted_as_another() {
        let refusals = Refusals::default();
        for code in ["not_now", "not_now", "no_such_code"] {
            refusals.add(code);
        }
        let counted: Vec<_> = refusals.all().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("not_now", 2), ("other", 1)]);
    }
}
