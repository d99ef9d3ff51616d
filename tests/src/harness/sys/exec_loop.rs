//! A program of some two hundred bytes without libraries, so that an exec of it costs as little as
//! possible: a worker thread executes the program again, for ever. [`crate::exec_loop`] uses it.

/// Where the program is mapped: the usual address of a program that is not relocated.
const ADDRESS: u64 = 0x40_0000;
/// `Elf64_Ehdr` and one `Elf64_Phdr` of elf(5).
const HEADER: u16 = 64;
const SEGMENT: u16 = 56;

/// The bytes of the executable file. `None` on other architectures than x86-64.
pub fn program() -> Option<Vec<u8>> {
    let code = code();
    if code.is_empty() {
        return None;
    }
    let begin = u64::from(HEADER + SEGMENT);
    let size = begin + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Type EXEC, machine x86-64, version.
    file.extend(2_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    // Entry, program headers, no section headers.
    for word in [ADDRESS + begin, u64::from(HEADER), 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER, SEGMENT, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable: the whole file, aligned to pages.
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    for word in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    Some(file)
}

#[cfg(not(target_arch = "x86_64"))]
fn code() -> &'static [u8] {
    &[]
}

// Adds one to the number in the file behind descriptor 0 and starts a thread on a part of the same
// stack, which executes the program again. The main thread waits to be ended by that. A failed exec is
// repeated: memory may be short for a moment.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.exec_loop, \"a\"",
    "reaper_tests_exec_loop:",
    "lea rsi, [rsp - 64]",
    "mov qword ptr [rsi], 0",
    "xor edi, edi",
    "mov edx, 8",
    "xor r10d, r10d",
    "mov eax, {pread}",
    "syscall",
    "inc qword ptr [rsi]",
    "mov eax, {pwrite}",
    "syscall",
    "mov edi, {thread}",
    "lea rsi, [rsp - 4096]",
    "xor edx, edx",
    "xor r8d, r8d",
    "4:",
    "mov eax, {clone}",
    "syscall",
    "test eax, eax",
    "js 4b",
    "jz 3f",
    "2:",
    "mov eax, {pause}",
    "syscall",
    "jmp 2b",
    "3:",
    "mov edi, {pdeathsig}",
    "mov esi, {kill}",
    "mov eax, {prctl}",
    "syscall",
    "lea rdi, [rip + 5f]",
    "push 0",
    "push rdi",
    "mov rsi, rsp",
    "xor edx, edx",
    "6:",
    "mov eax, {execve}",
    "syscall",
    "mov eax, {sched_yield}",
    "syscall",
    "jmp 6b",
    // Not /proc/self, which is the main thread: once that has exited, it has no program.
    "5: .asciz \"/proc/thread-self/exe\"",
    "reaper_tests_exec_loop_end:",
    ".popsection",
    pread = const libc::SYS_pread64,
    pwrite = const libc::SYS_pwrite64,
    thread = const libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD | libc::CLONE_SYSVSEM,
    clone = const libc::SYS_clone,
    pause = const libc::SYS_pause,
    pdeathsig = const libc::PR_SET_PDEATHSIG,
    kill = const libc::SIGKILL,
    prctl = const libc::SYS_prctl,
    execve = const libc::SYS_execve,
    sched_yield = const libc::SYS_sched_yield,
);

#[cfg(target_arch = "x86_64")]
fn code() -> &'static [u8] {
    unsafe extern "C" {
        #[link_name = "reaper_tests_exec_loop"]
        static START: u8;
        #[link_name = "reaper_tests_exec_loop_end"]
        static END: u8;
    }
    // SAFETY: both are addresses of read-only data of this program, the second behind the first;
    // all between them is initialised and never changes.
    unsafe {
        let (start, end) = (&raw const START, &raw const END);
        std::slice::from_raw_parts(start, end.addr() - start.addr())
    }
}
