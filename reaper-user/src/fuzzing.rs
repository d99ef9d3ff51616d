//! One door for each parser of bytes from outside: it takes any bytes and asserts what must hold of
//! them, which is more than "no crash". The fuzz targets in `tests/fuzz` push bytes through these
//! doors, and an ordinary test pushes the checked-in corpus and every past crash through them.
//!
//! Where a second reader of the same format is at hand, the door compares the two; elsewhere it
//! writes what it has read, or what the bytes chose, and expects to read that again. Absent from every
//! build but those of tests and fuzzing.

mod btf;
mod http_connection;
mod http_head;
mod netlink;
mod query;
mod records;
mod register;
mod sse;
mod stat;
#[cfg(test)]
mod tests;

pub use btf::btf;
pub use http_connection::http_connection;
pub use http_head::http_head;
pub use netlink::netlink_message;
pub use query::query;
pub use records::ring_record;
pub use register::register_body;
pub use sse::sse_client;
pub use stat::stat_line;

/// Numbers out of the bytes of a fuzzer, for doors that build something to read; zeros behind the
/// end, so that short inputs build small things.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::from(self.byte()) % limit
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    fn long(&mut self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.word())
    }
}
