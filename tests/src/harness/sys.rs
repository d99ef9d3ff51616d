//! The only unsafe code of the tests: system calls for which rustix has no safe wrapper, one call a
//! function.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

pub mod exec_loop;
pub mod seccomp;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use crate::fork_server::{CUE, LAST_CUE};

/// `BPF_MAP_CREATE` and `BPF_PROG_LOAD` of linux/bpf.h: both return a descriptor.
#[derive(Clone, Copy)]
pub enum BpfCommand {
    MapCreate = 0,
    ProgLoad = 5,
}

/// Moves this thread into new namespaces.
pub fn unshare_namespaces(pid: bool, net: bool, mount: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWPID, pid);
    flags.set(UnshareFlags::NEWNET, net);
    flags.set(UnshareFlags::NEWNS, mount);
    // SAFETY: `unshare` is only unsafe with FILES, which would give this thread a separate descriptor
    // table; the flags above never contain it.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Makes later children of this thread, and the program it executes, start in a new time namespace.
pub fn unshare_time() -> io::Result<()> {
    // SAFETY: as above.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) }.map_err(io::Error::from)
}

/// `bpf(command, attributes)` for the two commands that create a descriptor.
///
/// `attributes` is the union of bpf(2) as words; pointers in it must outlive the call.
pub fn bpf(command: BpfCommand, attributes: &mut [u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads and writes at most the given number of bytes of `attributes`, and
    // both commands only read through the pointers in it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The right to fork. Only a single-threaded process has it, because a child that inherits a lock held by
/// another thread would wait for ever.
pub struct Forker(());

impl Forker {
    /// Fails if this process has more than one thread.
    pub fn of_this_process() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            threads => Err(io::Error::other(format!(
                "{threads} threads: too many to fork"
            ))),
        }
    }

    /// Runs `child` in a new process, which then exits with code 0; returns its pid.
    pub fn fork(&self, child: impl FnOnce()) -> io::Result<u32> {
        // SAFETY: `self` proves that there is no other thread whose state the child would inherit.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                child();
                end_process(0)
            }
            pid => u32::try_from(pid).map_err(io::Error::other),
        }
    }

    /// Starts a process that does nothing until a signal ends it or this process ends; returns its pid.
    /// To choose the pid needs Linux 5.5 and `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`.
    ///
    /// It shares our memory, which it does not touch. So nothing is copied and nothing is torn down: no
    /// process starts and ends faster.
    pub fn fork_still(&self, pid: Option<u32>) -> io::Result<u32> {
        /// `CLONE_ARGS_SIZE_VER1` of include/uapi/linux/sched.h, in words.
        const WORDS: usize = 10;
        const FLAGS: usize = 0;
        const EXIT_SIGNAL: usize = 4;
        const SET_TID: usize = 8;
        const SET_TID_SIZE: usize = 9;
        let chosen = pid.unwrap_or(0).cast_signed();
        let mut request = [0_u64; WORDS];
        request[FLAGS] = u64::from(libc::CLONE_VM.cast_unsigned());
        request[EXIT_SIGNAL] = u64::from(libc::SIGCHLD.cast_unsigned());
        if pid.is_some() {
            request[SET_TID] = (&raw const chosen).addr() as u64;
            request[SET_TID_SIZE] = 1;
        }
        let result = i32::try_from(clone_still(&request)).map_err(io::Error::other)?;
        u32::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
    }
}

/// `clone3`. The child asks for a signal at our death and sleeps until one comes. Returns the child's
/// pid, or the error as a negative number.
#[cfg(target_arch = "x86_64")]
fn clone_still(request: &[u64]) -> i64 {
    let result;
    // SAFETY: the record has the given size, and what it points to is alive. The child
    // starts in the middle of this with all our registers and on our own memory, and stays here:
    // it makes calls without pointers, writes no memory, and has no signal handled, since those
    // that have a handler are not sent to it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "mov edi, {pdeathsig}",
            "mov esi, {kill}",
            "mov eax, {prctl}",
            "syscall",
            "2:",
            "mov eax, {pause}",
            "syscall",
            "jmp 2b",
            "3:",
            pdeathsig = const libc::PR_SET_PDEATHSIG,
            kill = const libc::SIGKILL,
            prctl = const libc::SYS_prctl,
            pause = const libc::SYS_pause,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") request.as_ptr(),
            in("rsi") size_of_val(request),
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}

/// The child's half exists for x86-64 only.
#[cfg(not(target_arch = "x86_64"))]
fn clone_still(_request: &[u64]) -> i64 {
    -i64::from(libc::ENOSYS)
}

/// Ends this process at once, from any thread: nothing is flushed, no handler runs.
pub fn end_process(code: u8) -> ! {
    // SAFETY: takes no pointer; buffers of a parent are not flushed twice.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Ends this thread alone: the process continues, even if this was the main thread.
pub fn end_thread() -> ! {
    loop {
        // SAFETY: the call touches no memory. Nothing of this thread is used after it, and what it owns
        // is leaked, so that no other thread loses it.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Blocks the signals that are cues, in this thread and in what it starts, until [`wait_for`].
pub fn block_cues() {
    let cues = set_of(&[CUE, LAST_CUE]);
    // SAFETY: reads the set, which is initialised, and writes through no pointer.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const cues, ptr::null_mut()) };
}

/// Waits for a signal that [`block_cues`] blocks.
pub fn wait_for(cue: Signal) {
    let set = set_of(&[cue]);
    let mut came = 0;
    // Only a set without valid signals is refused.
    // SAFETY: reads the set, which is initialised, and writes the signal to a local variable.
    unsafe { libc::sigwait(&raw const set, &raw mut came) };
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: changes the set, which has just been initialised.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal.as_raw()) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

/// Makes the kernel reap children that end, instead of keeping them as zombies.
pub fn ignore_children() {
    // SAFETY: no handler is installed, so no code of ours runs in signal context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Traces a thread without stopping it (`PTRACE_SEIZE`). Once it exits, it stays a zombie until this
/// thread waits for it or ends.
pub fn seize(thread: Pid) -> io::Result<()> {
    // SAFETY: this request reads no memory: the address must be null, and the data is a set of
    // options, here empty.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            thread.as_raw_nonzero().get(),
            ptr::null_mut::<libc::c_void>(),
            ptr::null_mut::<libc::c_void>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sleeps until a signal ends the process.
pub fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: takes no pointer.
        unsafe { libc::pause() };
    }
}

/// Makes the kernel drop everything for this socket, for good: attaches a classic filter that passes
/// nothing (`BPF_RET | BPF_K`, 0), and locks it, so that no other can replace it.
pub fn silence(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut pass_nothing = [libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: pass_nothing.as_mut_ptr(),
    };
    set_socket_option(socket, libc::SO_ATTACH_FILTER, &program)?;
    set_socket_option(socket, libc::SO_LOCK_FILTER, &1_i32)
}

/// Has this range of another process's memory swapped out.
pub fn page_out(pidfd: &OwnedFd, start: usize, length: usize) -> io::Result<()> {
    let range = libc::iovec {
        iov_base: ptr::without_provenance_mut(start),
        iov_len: length,
    };
    // SAFETY: the kernel reads one range from `range`, whose address is of the other process, and changes
    // nothing that a process can see in its memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            &raw const range,
            1,
            libc::MADV_PAGEOUT,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_socket_option<T>(socket: BorrowedFd<'_>, option: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`, and for a filter the one instruction behind
    // its pointer, which the only caller keeps alive; it copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Replaces the open file of a descriptor that other code in this process owns: to the owner its file
/// seems to have lost its effect. The owner still closes the descriptor, once.
pub fn put_behind(descriptor: RawFd, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: touches no memory, and the descriptor stays open throughout.
    match unsafe { libc::dup3(file.as_raw_fd(), descriptor, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How many bytes, and of the kernel's memory for them, the peer of a Unix socket has not read yet
/// (`SIOCOUTQ`); 0: it has read all.
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<i32> {
    let mut unread = 0;
    // SAFETY: writes one integer, which is a local variable.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(unread),
    }
}
