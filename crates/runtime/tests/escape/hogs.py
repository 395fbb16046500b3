"""Attempts to take more of the machine than a dyno may have.

Each asks for a little more than the limit and no further, so that where it works it still does no harm.
"""

import ctypes
import mmap
import os
import pty
import resource
import select
import signal
import time

libc = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


def checked(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def take_inotify_instances(count):
    return [checked(libc.inotify_init1(0)) for _ in range(count)]


def take_message_queues(count):
    """Each holds ten messages of 8 KiB; a user may have 800 KiB."""
    for number in range(count):
        name = f"hog-{os.getpid()}-{number}".encode()
        os.close(checked(libc.syscall(240, name, os.O_CREAT | os.O_RDWR, 0o600, 0)))


def drop_message_queues(count):
    for number in range(count):
        libc.syscall(241, f"hog-{os.getpid()}-{number}".encode())


def is_starved_of_inotify_by_a_neighbour():
    try:
        take_inotify_instances(80)
    except OSError as error:
        return str(error)
    raise AssertionError("there is enough")


def is_starved_of_message_queues_by_a_neighbour():
    try:
        take_message_queues(6)
    except OSError as error:
        return str(error)
    finally:
        drop_message_queues(6)
    raise AssertionError("there is enough")


def be_hungry():
    """What a neighbour does: holds more than half of what a user may have."""
    kept = take_inotify_instances(60)
    take_message_queues(6)
    print("hungry", flush=True)
    time.sleep(10000)
    del kept


def forks_without_end():
    children = []
    try:
        for _ in range(160):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def ballast():
    """The largest process is the one that the kernel ends when memory runs out: this one, not who reports."""
    return b"x" * (48 * MIB)


def takes_memory():
    kept = [ballast()]
    for _ in range(7):
        kept.append(b"x" * (48 * MIB))


def takes_memory_by_files_of_memory():
    kept = ballast()
    path = f"/dev/shm/hog-{os.getpid()}"
    with open(path, "wb", buffering=0) as file:
        os.unlink(path)
        for _ in range(300):
            checked(file.write(b"x" * MIB))
    del kept


def takes_memory_by_shared_segments():
    kept = ballast()
    found = checked(libc.shmget(0, 320 * MIB, 0o1600))
    try:
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(found, None, 0)
        for offset in range(0, 320 * MIB, 4096):
            ctypes.memset(address + offset, 1, 1)
    finally:
        libc.shmctl(found, 0, None)
    del kept


def folder():
    path = f"/tmp/hog-{os.getpid()}"
    os.mkdir(path)
    return path


def clear(path):
    for entry in os.scandir(path):
        os.unlink(entry.path)
    os.rmdir(path)


def fills_the_disk():
    path = folder()
    try:
        with open(f"{path}/big", "wb", buffering=0) as file:
            for _ in range(80):
                assert file.write(b"x" * MIB) == MIB, "cut short"
    finally:
        clear(path)


def fills_the_disk_through_the_slug():
    path = f"/app/hog-{os.getpid()}" if os.access("/app", os.W_OK) else f"/tmp/hog-{os.getpid()}"
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(80):
                assert file.write(b"x" * MIB) == MIB, "cut short"
    finally:
        os.unlink(path)


def fills_the_disk_behind_a_sparse_file():
    path = folder()
    try:
        with open(f"{path}/sparse", "wb", buffering=0) as file:
            file.truncate(1 << 40)
            for number in range(80):
                file.seek(number << 30)
                assert file.write(b"x" * MIB) == MIB, "cut short"
            os.fsync(file.fileno())
    finally:
        clear(path)


def takes_the_inodes():
    path = folder()
    try:
        for number in range(20_000):
            os.close(os.open(f"{path}/{number}", os.O_CREAT | os.O_WRONLY))
    finally:
        clear(path)


def opens_files_without_end():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(10_001):
        os.dup(null)


def dumps_its_core():
    resource.setrlimit(resource.RLIMIT_CORE, (MIB, MIB))


def takes_the_terminals():
    for _ in range(80):
        pty.openpty()
