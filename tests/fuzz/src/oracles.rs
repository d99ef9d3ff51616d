//! One oracle for each parser of bytes from outside: it takes any bytes and asserts what must hold of
//! the result, which is more than "no crash".
//!
//! Where a second parser of the same format exists, the oracle compares the two. Elsewhere it writes
//! what it has read, or what the bytes chose, and expects to read that again.
#![expect(
    clippy::missing_panics_doc,
    reason = "an oracle panics if its assertions do not hold"
)]

mod btf;
mod http_connection;
mod http_head;
mod netlink;
mod query;
mod records;
mod register;
mod sse;
mod stat;

pub use btf::btf;
pub use http_connection::http_connection;
pub use http_head::http_head;
pub use netlink::netlink_message;
pub use query::query;
pub use records::ring_record;
pub use register::register_body;
pub use sse::sse_client;
pub use stat::stat_line;

/// Numbers from the bytes of a fuzzer, for oracles that build an input. Zeros behind the end, so that
/// short inputs build small ones.
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
