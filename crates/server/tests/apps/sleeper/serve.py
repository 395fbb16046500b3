"""A master with two workers, as gunicorn is: it answers nothing itself, and kills a worker that has not noted the time
for two seconds. A worker does so every third time that it has waited in vain, so that a sleep ends for its master
before it can. A worker answers with its master's number and its own; /slow takes four seconds."""
import mmap
import os
import signal
import socket
import struct
import sys
import time

PATIENCE_S = 2
listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
beats = mmap.mmap(-1, mmap.PAGESIZE)
workers = {}


def beat(slot):
    struct.pack_into("d", beats, slot * 8, time.monotonic())


def answer(client, slot):
    client.settimeout(5)
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(4096)
        if not part:
            return
        head += part
    if b" /slow " in head:
        for _ in range(40):
            time.sleep(0.1)
            beat(slot)
    body = b"%d %d" % (os.getppid(), os.getpid())
    client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def work(slot):
    listener.settimeout(0.2)
    waited = 0
    while True:
        try:
            client, _ = listener.accept()
        except TimeoutError:
            waited += 1
            if waited % 3 == 0:
                beat(slot)
            continue
        try:
            answer(client, slot)
        except OSError as error:
            print("a client left:", error, flush=True)
        client.close()


def start(slot):
    beat(slot)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(slot)
    workers[pid] = slot


def leave(*_):
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    sys.exit(0)


start(0)
start(1)
signal.signal(signal.SIGTERM, leave)
print("serving", flush=True)
while True:
    time.sleep(0.05)
    for pid, slot in list(workers.items()):
        if time.monotonic() - struct.unpack_from("d", beats, slot * 8)[0] > PATIENCE_S:
            print("worker", pid, "hangs", flush=True)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del workers[pid]
            start(slot)
