//! Standard error without waiting. A pipe whose reader is stopped is full after 64 KiB, and a writer that
//! waits for it would stop the daemon.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::sys::NO_SIGNAL;

/// A write of up to this size to a pipe is whole or does not happen: `PIPE_BUF` of Linux, pipe(7).
const WHOLE: usize = 4_096;

/// Where lines are written. A line that is not taken at once is lost.
pub(crate) struct Unblocked {
    out: Out,
    lost: u64,
}

enum Out {
    /// A file, which never waits.
    File(File),
    /// A pipe or a terminal.
    Stream(OwnedFd),
    Socket(OwnedFd),
}

impl Unblocked {
    /// Returns a writer to standard error. Must be called before the sandbox.
    pub(crate) fn stderr() -> io::Result<Self> {
        Self::to(io::stderr().as_fd().try_clone_to_owned()?)
    }

    fn to(fd: OwnedFd) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let out = match kind {
            FileType::Socket => Out::Socket(fd),
            FileType::Fifo | FileType::CharacterDevice => {
                Out::Stream(opened_anew(&fd).unwrap_or(fd))
            }
            _ => Out::File(fd.into()),
        };
        Ok(Self { out, lost: 0 })
    }

    fn try_write(&self, line: &[u8]) -> io::Result<()> {
        match &self.out {
            Out::File(file) => (&*file).write_all(line),
            Out::Socket(fd) => {
                let flags = SendFlags::DONTWAIT | NO_SIGNAL;
                Ok(rustix::net::send(fd, line, flags).map(drop)?)
            }
            Out::Stream(fd) => {
                // Also where it could not be opened anew, so that the descriptor itself waits.
                let mut polled = [PollFd::new(fd, PollFlags::OUT)];
                poll(&mut polled, Some(&Timespec::default()))?;
                if !polled[0].revents().contains(PollFlags::OUT) {
                    return Err(Errno::AGAIN.into());
                }
                rustix::io::write(fd, &line[..line.len().min(WHOLE)])?;
                if line.len() > WHOLE {
                    rustix::io::write(fd, b"\n")?;
                }
                Ok(())
            }
        }
    }
}

/// Returns another description of the same file that does not wait. The flag belongs to the description, which
/// the shell that started the daemon may share.
fn opened_anew(fd: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

impl Write for Unblocked {
    /// Takes a whole line. There is no error: no reader is there to see it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lost > 0 {
            let text = format!("[{}]\n", super::lost(self.lost));
            if self.try_write(text.as_bytes()).is_ok() {
                self.lost = 0;
            }
        }
        if self.lost > 0 || self.try_write(line).is_err() {
            self.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn read(from: &mut impl io::Read) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    /// Fills the stream, lets its reader read it, and checks that the number of lost lines follows.
    fn loses_and_counts(writer: OwnedFd, read_some: impl FnOnce()) -> u64 {
        let mut out = Unblocked::to(writer).unwrap();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        for _ in 0..10_000 {
            out.write_all(&line).unwrap();
        }
        let lost = out.lost;
        assert!(lost > 0, "it never fills up");
        read_some();
        out.write_all(b"last\n").unwrap();
        assert_eq!(out.lost, 0);
        lost
    }

    #[test]
    fn a_full_pipe_loses_lines_and_then_has_their_number() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let lost = loses_and_counts(writer.into(), || {
            reader.read_exact(&mut buffer[..60_000]).unwrap();
        });
        let text = read(&mut reader);
        let expected = format!("[{lost} messages of the log are lost");
        assert!(text.contains(&expected), "{}", &text[text.len() - 200..]);
        assert!(text.ends_with("\nlast\n"));
    }

    #[test]
    fn so_does_a_full_socket() {
        let (ours, mut reader) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut buffer = vec![0; 64 * 1024];
        loses_and_counts(ours.into(), || reader.read_exact(&mut buffer).unwrap());
    }

    #[test]
    fn a_file_has_every_line() {
        let file = tempfile::tempfile().unwrap();
        let mut out = Unblocked::to(file.try_clone().unwrap().into()).unwrap();
        for _ in 0..100 {
            out.write_all(&[b'y'; 10_000]).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), 1_000_000);
    }

    #[test]
    fn a_long_line_is_cut_in_a_pipe_and_stays_one_line() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut out = Unblocked::to(writer.into()).unwrap();
        out.write_all(&[[b'z'; 9_999].as_slice(), b"\n"].concat())
            .unwrap();
        out.write_all(b"next\n").unwrap();
        drop(out);
        let text = read(&mut reader);
        assert_eq!(text.len(), WHOLE + 1 + 5);
        assert_eq!(text.lines().count(), 2);
    }
}
