"""What a hostile app tries, one function an attempt.

Run as `python3 attempts.py JSON`, where JSON is {"attempts": [names], ...what the attempts need to know...}.
An attempt that returns has worked; one that raises, or dies, has failed. Each runs in a process of its own. Prints
`@ NAME works` or `@ NAME fails: REASON`. `absent` as a reason means that the kernel has no such thing at all.

None does harm where it works: what it makes it takes away again, and what it could overwrite it leaves as it was.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios

import hogs
import links

know = {}
libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWUSER = 0x10000000
ABSENT = (errno.ENOSYS,)


class Absent(Exception):
    """The kernel does not have it, for anybody."""


def call(number, *arguments, absent=ABSENT):
    """A raw system call (x86-64). Pointers may be bytes or ctypes buffers."""
    plain = [a if not isinstance(a, int) else ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *plain)
    if result < 0:
        error = ctypes.get_errno()
        if error in absent:
            raise Absent(os.strerror(error))
        raise OSError(error, os.strerror(error))
    return result


def fails_with(wanted, number, *arguments):
    """The call is let through to the kernel's own check of its nonsense arguments."""
    try:
        call(number, *arguments)
    except OSError as error:
        if error.errno != wanted:
            raise


def scratch(name):
    path = f"/tmp/{name}-{os.getpid()}"
    os.makedirs(path)
    return path


# === processes ===

def sees_a_process_of_the_host():
    with open(f"/proc/{know['stranger']}/cmdline") as file:
        assert "stranger" in file.read()


def signals_its_own_user_outside():
    os.kill(know["relative"], 0)
    assert b"relative" in open(f"/proc/{know['relative']}/cmdline", "rb").read()


def signals_a_process_of_another_app():
    os.kill(know["stranger"], 0)
    assert b"stranger" in open(f"/proc/{know['stranger']}/cmdline", "rb").read()


def reads_the_environment_of_another_app():
    assert know["secret"].encode() in open(f"/proc/{know['stranger']}/environ", "rb").read()


def traces_a_process_of_another_app():
    ptrace_seize(know["stranger"])


def ptrace_seize(pid):
    PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
    call(101, PTRACE_SEIZE, pid, 0, 0)
    call(101, PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    call(101, PTRACE_DETACH, pid, 0, 0)


def traces_the_first_process():
    ptrace_seize(1)


def reads_the_first_process():
    os.listdir("/proc/1/fd")
    with open("/proc/1/environ", "rb") as file:
        file.read()


# === kernel interfaces ===

def makes_a_user_namespace():
    call(272, CLONE_NEWUSER)


def clones_a_user_namespace():
    pid = call(56, CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clones_3_a_user_namespace():
    arguments = struct.pack("<8Q", CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    # Denied as if the kernel had it not, so here "not there" is a plain failure.
    pid = call(435, arguments, len(arguments), absent=())
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def enters_a_namespace():
    with open("/proc/self/ns/uts") as own:
        call(308, own.fileno(), 0)


def mounts():
    path = scratch("mounted")
    call(165, b"none", path.encode(), b"tmpfs", 0, b"size=64k")
    call(166, path.encode(), 2)


def opens_a_file_system():
    os.close(call(430, b"tmpfs", 0))


def changes_the_root():
    call(161, b"/tmp")


def mounts_the_cgroups_and_finds_the_release_agent():
    path = scratch("cgroups")
    call(165, b"none", path.encode(), b"cgroup", 0, b"memory")
    try:
        # Opened for writing only: what would be written there runs as root of the host.
        os.close(os.open(f"{path}/release_agent", os.O_WRONLY))
    finally:
        call(166, path.encode(), 2)


def loads_a_bpf_map():
    attributes = struct.pack("<5I", 2, 4, 4, 1, 0).ljust(128, b"\0")
    os.close(call(321, 0, attributes, len(attributes)))


def opens_a_perf_event():
    SOFTWARE, TASK_CLOCK, EXCLUDE_KERNEL_AND_HYPERVISOR = 1, 1, (1 << 5) | (1 << 6)
    attributes = struct.pack("<IIQQQQQ", SOFTWARE, 112, TASK_CLOCK, 0, 0, 0, EXCLUDE_KERNEL_AND_HYPERVISOR)
    os.close(call(298, attributes.ljust(112, b"\0"), 0, -1, -1, 0))


def uses_a_keyring():
    call(248, b"user", b"ferroku-escape", b"x", 1, -2)


def asks_for_a_keyring():
    call(250, 0, -2, 1, 0, 0)


def sets_up_io_uring():
    os.close(call(425, 1, ctypes.create_string_buffer(256)))


def holds_page_faults():
    USER_MODE_ONLY = 1
    os.close(call(323, USER_MODE_ONLY))


def loads_a_module():
    fails_with(errno.ENOEXEC, 175, b"x", 1, b"")


def loads_a_kernel():
    fails_with(errno.EINVAL, 246, 0, 17, 0, 0)


def reads_the_kernel_log():
    SIZE_BUFFER = 10
    call(103, SIZE_BUFFER, 0, 0)


def reads_the_clock_discipline():
    # modes = 0 changes nothing; the same call with others steps the machine's clock.
    call(305, 0, ctypes.create_string_buffer(512))


def renames_the_host():
    name = socket.gethostname().encode()
    call(170, name, len(name))


def file_handle(path):
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128), 136)
    mount = ctypes.c_int()
    call(303, -100, path.encode(), handle, ctypes.byref(mount), 0)
    return handle


def names_a_file_by_handle():
    file_handle("/usr/bin")


def opens_a_file_by_handle():
    handle = ctypes.create_string_buffer(bytes.fromhex(know["handle"]))
    folder = os.open("/usr/bin", os.O_RDONLY)
    os.close(call(304, folder, handle, os.O_RDONLY))


def opens_io_ports():
    call(173, 0x80, 1, 1)


def reads_the_descriptor_table():
    call(154, 0, ctypes.create_string_buffer(16), 16)


def sets_a_memory_policy():
    call(238, 0, 0, 0)


def watches_a_file_system():
    REPORT_FID = 0x200
    os.close(call(300, REPORT_FID, 0))


def compares_kernel_pointers():
    KCMP_FILE = 0
    call(312, os.getpid(), os.getpid(), KCMP_FILE, 0, 0)


def takes_asynchronous_io():
    context = ctypes.c_ulong(0)
    call(206, 1, ctypes.byref(context), absent=())
    call(207, context.value)


def fakes_terminal_input():
    master, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    fcntl.ioctl(slave, 0x5412, b"x")


def fakes_terminal_input_past_a_64_bit_filter():
    master, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    call(16, slave, 0x1_0000_5412, b"x")


def opens_a_packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300).close()


def opens_a_virtual_machine_socket():
    try:
        socket.socket(40, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise Absent(str(error))
        raise


def opens_a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()


def changes_the_network():
    done = subprocess.run(["ip", "address", "add", "192.0.2.77/32", "dev", "lo"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.strip()
    subprocess.run(["ip", "address", "del", "192.0.2.77/32", "dev", "lo"], check=True)


def calls_as_a_32_bit_program():
    # mov eax, 20 (getpid of i386); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


def goes_before_everybody_else():
    os.setpriority(os.PRIO_PROCESS, 0, -5)


def makes_a_device_of_the_host():
    path = f"/dev/loop-control-{os.getpid()}"
    # It attaches any file as a disk. Opened only.
    os.mknod(path, 0o600 | 0o020000, os.makedev(10, 237))
    try:
        os.close(os.open(path, os.O_RDWR))
    finally:
        os.unlink(path)


def gains_root_by_a_set_uid_program():
    # The loader shows this to nobody who runs with another's rights.
    shown = subprocess.run([know["set_uid"], "--version"], env={"LD_SHOW_AUXV": "1"}, capture_output=True)
    assert b"AT_SECURE" not in shown.stdout, "the set-uid bit did nothing"
    assert shown.returncode == 0, shown.stderr


def writes_a_sysctl():
    path = "/proc/sys/kernel/core_pattern"
    with open(path) as file:
        pattern = file.read()
    with open(path, "w") as file:
        file.write(pattern)


def asks_the_kernel_by_sysrq():
    if not os.path.exists("/proc/sysrq-trigger"):
        raise Absent("no /proc/sysrq-trigger")
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))


def opens_physical_memory():
    if not os.path.exists(know.get("host_mem", "/dev/mem")):
        raise Absent("no /dev/mem")
    os.close(os.open("/dev/mem", os.O_RDONLY))


def reads_how_the_kernel_was_started():
    with open("/proc/cmdline") as file:
        assert file.read().strip()


def reads_the_kernels_addresses():
    with open("/proc/kallsyms") as file:
        assert file.readline()


def reads_any_masked_path():
    for path in know["masked"]:
        try:
            if os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1):
                return
        except OSError:
            pass
    raise AssertionError("all are empty")


def opens_any_read_only_path_for_writing():
    """Some settings are everybody's by their mode, such as ns_last_pid."""
    for path in know["read_only"]:
        for folder, _, names in os.walk(path) if os.path.isdir(path) else [(os.path.dirname(path), [], [os.path.basename(path)])]:
            for name in names:
                try:
                    os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK))
                    return
                except OSError:
                    pass
    raise AssertionError("none opens")


def reads_the_kernels_folder():
    assert os.listdir("/sys/kernel")


def writes_to_sys():
    with open("/sys/class/net/lo/tx_queue_len") as file:
        length = file.read()
    with open("/sys/class/net/lo/tx_queue_len", "w") as file:
        file.write(length)


# === files and names of the host ===

def open_by_any_path(path):
    """As it is, by links of the slug, upwards, through the first process, and where the whole host would be shown."""
    routes = [path, "/opt" + path, "/app/link" + path, "/app/up" + path, "../" * 20 + path[1:], "/proc/1/root" + path]
    last = None
    for route in routes:
        try:
            with open(route, "rb") as file:
                return file.read(1 << 20)
        except OSError as error:
            last = error
    raise last


def reads_another_slug():
    assert b"source of another app" in open_by_any_path(know["slug_file"])


def reads_a_file_in_var():
    assert know["secret"].encode() in open_by_any_path(know["var_file"])


def reads_a_file_in_run():
    assert know["secret"].encode() in open_by_any_path(know["run_file"])


def reads_the_node_identity():
    assert b"node_id" in open_by_any_path(know["identity"])


def reads_the_log_of_another_app():
    assert know["secret"].encode() in open_by_any_path(know["ring"])


def reads_the_disk_of_another_app():
    open_by_any_path(know["image"])


def reads_the_home_of_root():
    assert os.listdir("/root") or os.listdir("/opt/root"), "empty"


def reads_the_hosts_users():
    with open("/etc/passwd") as file:
        assert "daemon:x:1:" in file.read()


def talks_to_a_socket_of_the_host():
    for path in [know["socket"], "/opt" + know["socket"]]:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(path)
                return
            except FileNotFoundError as error:
                last = error
    raise last


def talks_to_an_abstract_socket_of_the_host():
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + know["abstract"])


def talks_to_the_hosts_loopback():
    socket.create_connection(("127.0.0.1", know["loopback_port"]), 3).close()


def reads_shared_memory_of_the_host():
    found = call(29, know["shm_key"], 0, 0)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(found, None, 0o10000)
    assert address and address != ctypes.c_void_p(-1).value, "shmat failed"


def opens_a_message_queue_of_the_host():
    os.close(call(240, know["queue"].encode(), os.O_RDONLY, 0, 0))


def reads_the_hosts_name():
    assert socket.gethostname() == know["host_name"], socket.gethostname()


def reads_its_place_among_the_cgroups():
    with open("/proc/self/cgroup") as file:
        assert "ferroku-" in file.read()


def writes_to_usr():
    path = f"/usr/ferroku-escape-{os.getpid()}"
    with open(path, "w"):
        os.unlink(path)


def writes_to_the_root_folder():
    path = f"/ferroku-escape-{os.getpid()}"
    with open(path, "w"):
        os.unlink(path)


def finds_an_inherited_descriptor():
    """A descriptor of a folder outside is a way out (CVE-2024-21626)."""
    for pid in ["self", "1"]:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith("/") and not target.startswith(("/dev/", "/app", "/proc/", "/tmp")):
                return
    raise AssertionError("none leads anywhere")


# === the frame ===

def find(name):
    return globals().get(name) or getattr(hogs, name, None) or getattr(links, name)


def begin(name):
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        signal.alarm(know.get("seconds", 30))
        try:
            find(name)()
            result = "works"
        except Absent as error:
            result = f"absent: {error}"
        except BaseException as error:
            result = f"fails: {type(error).__name__}: {error}"
        os.write(write, result.replace("\n", " ").encode()[:400])
        os._exit(0)
    os.close(write)
    return name, pid, read


def end(name, pid, read):
    result = b""
    while piece := os.read(read, 1000):
        result += piece
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if not result:
        result = f"fails: ended by signal {os.WTERMSIG(status)}".encode()
    print(f"@ {name} {result.decode()}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "be_hungry":
        hogs.be_hungry()
    if sys.argv[1] == "serve":
        links.serve(int(sys.argv[2]), sys.argv[3])
    if sys.argv[1] == "be_the_far_side":
        links.be_the_far_side(int(sys.argv[2]))
    know = json.loads(sys.argv[1])
    links.know = know
    if know["at_once"]:
        # Those who wait for an answer that does not come wait together.
        for begun in [begin(name) for name in know["attempts"]]:
            end(*begun)
    else:
        for name in know["attempts"]:
            end(*begin(name))
