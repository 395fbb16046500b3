"""port80 PORT -- COMMAND...

Runs COMMAND in a network of its own, where 127.0.0.1:80 leads to 127.0.0.1:PORT of this
machine, the port of $HEROKU_HOST to itself, and nothing else anywhere. For clients that
know one port only: the Heroku CLI's SSH goes to port 80. Exits as the command did.
"""

import ctypes
import os
import socket
import subprocess
import sys
import threading

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def pass_on(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def relay(listener, remote):
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", remote))
        except OSError:
            client.close()
            continue
        for ends in ((client, server), (server, client)):
            threading.Thread(target=pass_on, args=ends, daemon=True).start()


def main():
    api = int(os.environ["HEROKU_HOST"].rsplit(":", 1)[1])
    ports = [(80, int(sys.argv[1])), (api, api)]
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        sys.exit("port80: needs root to make a network")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    listeners = []
    for local, remote in ports:
        # A socket stays in the network that it was made in.
        listeners.append((socket.create_server(("127.0.0.1", local), backlog=64), remote))
    command = subprocess.Popen(sys.argv[3:])
    # Threads that are started from here on are outside again.
    libc.setns(outside, CLONE_NEWNET)
    for ends in listeners:
        threading.Thread(target=relay, args=ends, daemon=True).start()
    status = command.wait()
    sys.stdout.flush()
    os._exit(status if status >= 0 else 128 - status)


main()
