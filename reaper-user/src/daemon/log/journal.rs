//! The journal's native protocol: one datagram a message, with its fields.
//!
//! The crates for it block while the journal is busy: `systemd-journal-logger` 2.2 sends with a socket that
//! waits. The monitor and the loop that removes dead processes must not.

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Record};

/// `systemd.journal-fields(7)` and "Native Journal Protocol" of the systemd project.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    lost: AtomicU64,
}

impl Journal {
    /// Connects to the journal if it reads standard error, as `JOURNAL_STREAM` says.
    pub(super) fn of_stderr() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = rustix::fs::fstat(io::stderr()).ok()?;
        if !is_file(&stream, stderr.st_dev, stderr.st_ino) {
            return None;
        }
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect(SOCKET)?;
            io::Result::Ok(socket)
        };
        Some(Self {
            socket: connect().ok()?,
            lost: AtomicU64::new(0),
        })
    }

    pub(super) fn write(&self, record: &Record<'_>) {
        if !self.send(&encode(record)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = super::lost(lost);
            let mut datagram = Vec::new();
            put(&mut datagram, "PRIORITY", "4");
            put(&mut datagram, "SYSLOG_IDENTIFIER", "reaperd");
            put(&mut datagram, "MESSAGE", &text);
            if !self.send(&datagram) {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
    }

    /// Sends without waiting. The service manager holds the journal's socket, so that a restart of the
    /// journal ends no connection. After one of the socket itself each message has the address: a worker that
    /// listens cannot connect again.
    fn send(&self, datagram: &[u8]) -> bool {
        match self.socket.send(datagram) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => self.socket.send_to(datagram, SOCKET).is_ok(),
        }
    }
}

/// Returns whether this is the file of the variable: `DEVICE:INODE`.
fn is_file(variable: &str, device: u64, inode: u64) -> bool {
    let numbers = variable.split_once(':');
    numbers.is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

fn encode(record: &Record<'_>) -> Vec<u8> {
    let priority = match record.level() {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    };
    let mut datagram = Vec::with_capacity(512);
    put(&mut datagram, "PRIORITY", priority);
    put(&mut datagram, "SYSLOG_IDENTIFIER", "reaperd");
    put(&mut datagram, "TARGET", record.target());
    put(&mut datagram, "MESSAGE", &record.args().to_string());
    let mut fields = Fields(&mut datagram);
    // The visitor returns no error.
    record.key_values().visit(&mut fields).unwrap_or_default();
    datagram
}

struct Fields<'a>(&'a mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let mut text = String::new();
        write!(text, "{value}").unwrap_or_default();
        put(self.0, key.as_str(), &text);
        Ok(())
    }
}

/// Appends a field in the form that allows every byte in the value: the length precedes it.
fn put(datagram: &mut Vec<u8>, key: &str, value: &str) {
    let length = u64::try_from(value.len()).unwrap_or(0).to_le_bytes();
    for part in [key.as_bytes(), b"\n", &length, value.as_bytes(), b"\n"] {
        datagram.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_the_file_by_device_and_inode() {
        assert!(is_file("9:4711", 9, 4711));
        for other in ["9:4712", "8:4711", "9", "", "9:4711:1", "x:y"] {
            assert!(!is_file(other, 9, 4711), "{other:?}");
        }
    }

    #[test]
    fn a_value_cannot_add_a_field() {
        let mut datagram = Vec::new();
        put(&mut datagram, "MESSAGE", "a\nPRIORITY=0");
        assert_eq!(datagram, b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n");
    }

    #[test]
    fn a_journal_that_is_not_read_loses_messages_and_reports_their_number() {
        let (ours, reader) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        reader.set_nonblocking(true).unwrap();
        let journal = Journal {
            socket: ours,
            lost: AtomicU64::new(0),
        };
        let write = || journal.write(&Record::builder().args(format_args!("text")).build());
        let mut written = 0;
        while journal.lost.load(Ordering::Relaxed) < 3 {
            write();
            written += 1;
            assert!(written < 100_000, "it never fills up");
        }
        let mut buffer = [0; 1024];
        let mut received = 0;
        while reader.recv(&mut buffer).is_ok() {
            received += 1;
        }
        assert_eq!(received + 3, written);
        write();
        reader.recv(&mut buffer).unwrap();
        let length = reader.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(text.contains("3 messages of the log are lost"), "{text}");
    }
}
