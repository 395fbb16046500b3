//! The system calls that dyno-init and its starter need and no safe library has, each in a small safe function.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What failed, for a person; dyno-init hands it to control as text.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// # Errors
    /// The error, with `what` before it.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{}: {error}", what())))
    }
}

/// The path as C wants it.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `mount(2)`.
pub fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let source = CString::new(source).map_err(invalid)?;
    let kind = CString::new(kind).map_err(invalid)?;
    let data = CString::new(data).map_err(invalid)?;
    let target = c_path(target)?;
    // SAFETY: all four are NUL-terminated strings that live through the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })?;
    Ok(())
}

/// A detached copy of the mount at `path`, with all mounts below it.
pub fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let path = c_path(path)?;
    let flags = OPEN_TREE_CLONE | libc::AT_RECURSIVE as libc::c_uint | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: the path is NUL-terminated and lives through the call; the result is a new descriptor.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Changes the attributes of a detached mount, and of all below it.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttributes {
        set: set | if user_namespace.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        clear: 0,
        propagation: 0,
        user_namespace: user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // An id map cannot be put on a whole tree whose parts cannot take one.
    let recursive = if user_namespace.is_some() { 0 } else { libc::AT_RECURSIVE };
    // SAFETY: the empty path and the structure, of the size given, live through the call.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// Puts a detached mount at `target`.
pub fn move_mount(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let target = c_path(target)?;
    // SAFETY: both paths are NUL-terminated and live through the call.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Unmounts, now or when the last user is gone.
pub fn unmount_detached(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: the path is NUL-terminated and lives through the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })?;
    Ok(())
}

/// Sets the owner of a file that is not followed if it is a link.
pub fn change_owner(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

/// Two connected unix sockets, closed at exec.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_STREAM)
}

/// Two connected unix sockets that keep messages apart, closed at exec.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_SEQPACKET)
}

fn pair(kind: libc::c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the kernel just gave these descriptors to us alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A pipe (read end, write end), closed at exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel just gave these descriptors to us alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Makes reads and writes of it return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain flag calls on an open descriptor.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Reads what is there, up to the buffer.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as said and lives through the call.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Writes what can be written.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as said and lives through the call.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Waits for any child that ended; `None` when none has.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid > 0 { Some((pid, exit_code(status))) } else { None }
}

/// A wait status as a shell gives it: the exit status, or 128 + the signal.
pub fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Sends a signal; a process that is gone is no error.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: no memory is involved. Callers pass the pids of their own children or of a cgroup of theirs.
    unsafe { libc::kill(pid, signal) };
}

/// Blocks SIGCHLD and gives a descriptor that becomes readable when a child has ended.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the signal set lives through the calls; the descriptor is new and ours alone.
    unsafe {
        let mut children: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut children);
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const children, std::ptr::null_mut());
        let signals = libc::signalfd(-1, &raw const children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        Ok(OwnedFd::from_raw_fd(check(signals)?))
    }
}

/// Takes what made [`child_signals`] readable.
pub fn drain_signals(signals: BorrowedFd<'_>) {
    let mut buffer = [0; 1024];
    while read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Waits until one of these is ready, for so long; negative: for ever. An interruption is no error.
pub fn poll(waits: &[(BorrowedFd<'_>, i16)], timeout_ms: i32) -> io::Result<usize> {
    let mut list: Vec<libc::pollfd> = waits
        .iter()
        .map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events: *events, revents: 0 })
        .collect();
    // SAFETY: the list lives through the call and is as long as said.
    match check(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout_ms) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(1),
        result => result.map(|count| count as usize),
    }
}

/// A file in memory with these bytes, to be read from its start.
pub fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated; the descriptor is new and ours alone.
    let fd =
        unsafe { OwnedFd::from_raw_fd(check(libc::memfd_create(c"order".as_ptr(), libc::MFD_CLOEXEC))?) };
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Sends a signal to a process if `is_it` still says so once nobody else can have its number. Gives whether it was sent.
pub fn signal_process(pid: i32, signal: i32, is_it: impl FnOnce() -> bool) -> bool {
    // SAFETY: plain calls with numbers; the descriptor is ours from the kernel alone, and closed by its owner.
    unsafe {
        let Ok(fd) = check_long(libc::syscall(libc::SYS_pidfd_open, pid, 0)) else { return false };
        let process = OwnedFd::from_raw_fd(fd as RawFd);
        is_it()
            && libc::syscall(
                libc::SYS_pidfd_send_signal,
                process.as_raw_fd(),
                signal,
                std::ptr::null::<u8>(),
                0,
            ) == 0
    }
}

/// The user of the process that connected to this socket.
pub fn peer_uid(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure lives through the call and is as long as said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    check(result).ok().map(|_| peer.uid)
}

/// Default handling and no blocking of every signal, as programs expect to start.
pub fn reset_signals() {
    // SAFETY: resets dispositions of this process; uncatchable signals just fail.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Descriptors below this belong to what [`spawn_setup`] hands on.
const FIRST_SPARE_FD: RawFd = 64;

/// In a child between fork and exec: puts `fds[i].0` at number `fds[i].1`, open over the exec.
/// Allocates nothing. `fds` is changed to hold the copies.
pub fn spawn_setup(fds: &mut [(RawFd, RawFd)]) -> io::Result<()> {
    // SAFETY: only descriptor numbers are involved; the copies keep one from overwriting another's source.
    unsafe {
        for (source, _) in fds.iter_mut() {
            *source = check(libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, FIRST_SPARE_FD))?;
        }
        for (source, target) in fds.iter() {
            check(libc::dup2(*source, *target))?;
        }
    }
    Ok(())
}

/// Forks this single-threaded process. `None` in the child.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: dyno-init has one thread, so the child may go on as it likes.
    let pid = check(unsafe { libc::fork() })?;
    Ok(if pid == 0 { None } else { Some(pid) })
}

/// Replaces this process by a program. Returns only when that failed.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end in NULL and their strings live until the call does not return.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Most descriptors that come along with one message.
pub const MAX_DESCRIPTORS: usize = 5;

/// Room for the control message of so many descriptors, in words that align it.
const CONTROL_WORDS: usize = 8;

/// Sends bytes with descriptors along, at most [`MAX_DESCRIPTORS`].
pub fn send_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if descriptors.is_empty() || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: the message points at live buffers, of which the kernel only reads; `control` is aligned and has room for
    // that many descriptors (16 bytes of head and 4 for each).
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let length = (numbers.len() * size_of::<RawFd>()) as u32;
        message.msg_controllen = libc::CMSG_SPACE(length) as usize;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(length) as usize;
        std::ptr::copy_nonoverlapping(numbers.as_ptr().cast(), libc::CMSG_DATA(head), length as usize);
        if libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Reads bytes and the one descriptor that may come along.
pub fn receive_with_descriptor(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    receive_with_descriptors(socket, buffer)
        .map(|(count, descriptors)| (count, descriptors.into_iter().next()))
}

/// Reads bytes and the descriptors that may come along, at most [`MAX_DESCRIPTORS`].
pub fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; CONTROL_WORDS];
    let mut descriptors = Vec::new();
    // SAFETY: the message points at live buffers; what the kernel wrote to `control` is read by its own macros, and the
    // descriptors in it are ours alone.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let count = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        if !head.is_null() && (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS
        {
            let bytes = (*head).cmsg_len - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(head).cast::<RawFd>();
            for index in 0..bytes / size_of::<RawFd>() {
                descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
            }
        }
        Ok((count as usize, descriptors))
    }
}

/// Reads a message that is there already.
pub fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as said and lives through the call.
    let count = unsafe {
        libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
    };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Sets a terminal's size.
pub fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure lives through the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds of a clock that only goes forward.
pub fn monotonic_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Lets go of what only the start needed: free heap, and the pages of the program itself, of which the kernel brings
/// back the few that go on being used. A dyno-init lives as long as its dyno, and there are many.
pub fn give_memory_back() {
    // SAFETY: returns free heap to the kernel.
    unsafe { libc::malloc_trim(0) };
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let program = program.to_string_lossy();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines().filter(|line| line.ends_with(program.as_ref())) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights), Some(offset)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // Code, and constants, which begin the file. Not what is read-only since the start only: it was written then.
        if !(rights == "r-xp" || rights == "r--p" && offset.bytes().all(|digit| digit == b'0')) {
            continue;
        }
        let bounds = range
            .split_once('-')
            .map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)));
        let Some((Ok(start), Ok(end))) = bounds else { continue };
        // SAFETY: private mappings of a file that were never written, since relocations go into the data segments
        // only: dropped pages are read again from the file.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}
