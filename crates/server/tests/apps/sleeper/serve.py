"""A master with two workers, as gunicorn is: it answers nothing itself, and kills a worker that it has not heard of for
two seconds. A worker answers with its master's number and its own; /slow takes four seconds."""
import os
import signal
import socket
import sys
import time

PATIENCE_S = 2
listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
workers = {}


def answer(client, beat):
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
            beat()
    body = b"%d %d" % (os.getppid(), os.getpid())
    client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def work(write):
    def beat():
        os.write(write, b".")

    listener.settimeout(0.2)
    while True:
        beat()
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        try:
            answer(client, beat)
        except OSError as error:
            print("a client left:", error, flush=True)
        client.close()


def start():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(write)
    os.close(write)
    os.set_blocking(read, False)
    workers[pid] = [read, time.monotonic()]


def leave(*_):
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    sys.exit(0)


start()
start()
signal.signal(signal.SIGTERM, leave)
print("serving", flush=True)
while True:
    time.sleep(0.2)
    now = time.monotonic()
    for pid, worker in list(workers.items()):
        try:
            if os.read(worker[0], 4096):
                worker[1] = time.monotonic()
        except BlockingIOError:
            pass
        if now - worker[1] > PATIENCE_S:
            print("worker", pid, "hangs", flush=True)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(worker[0])
            del workers[pid]
            start()
