"""Attempts to reach what a dyno has no business with, and the far side that sees them.

The far side is a network namespace that stands for the internet and for what else is near a server.
"""

import json
import os
import random
import socket
import struct
import subprocess
import threading
import time

know = {}
PATIENCE_S = 2


def connects(host, port):
    socket.create_connection((host, port), PATIENCE_S).close()


def connects_to_any(hosts, port):
    last = None
    for host in hosts:
        try:
            return connects(host, port)
        except OSError as error:
            last = error
    raise last


def ask_the_far_side():
    with socket.create_connection((know["internet"], know["far_port"]), PATIENCE_S) as connection:
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
    return json.loads(data)


def reaches_the_internet():
    ask_the_far_side()


def reaches_another_dyno():
    connects(know["near_dyno"], know["dyno_port"])


def reaches_another_dyno_by_the_node():
    connects(know["dyno"], know["dyno_port"])


reaches_a_dyno_as_a_user = reaches_another_dyno_by_the_node
reaches_a_dyno_as_root = reaches_another_dyno_by_the_node
reaches_a_dyno_from_outside = reaches_another_dyno_by_the_node


def connects_by_link_local(host, port):
    """The own address may be so new that it is not used yet."""
    TENTATIVE = 0x40
    for _ in range(100):
        with open("/proc/net/if_inet6") as file:
            own = [line.split() for line in file if line.split()[-1] == "eth0"]
        if own and not any(int(fields[4], 16) & TENTATIVE for fields in own):
            break
        time.sleep(0.05)
    connects(f"{host}%eth0", port)


def own_link():
    return "uplink" if os.path.exists("/sys/class/net/uplink") else "eth0"


def asks_for(addresses, family):
    """Each address that is asked for is an entry in a table of the whole machine, 1,024 long unless somebody raised it."""
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for address in addresses:
            try:
                scope = socket.if_nametoindex(own_link()) if family == socket.AF_INET6 else 0
                sender.sendto(b"?", (address, 9, 0, scope) if scope else (address, 9))
            except OSError:
                pass
    version = "-6" if family == socket.AF_INET6 else "-4"
    command = ["/sbin/ip", version, "neighbour", "show", "dev", own_link(), "nud", "all"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line for line in shown if line.split()[0] in addresses]
    assert len(found) > len(addresses) / 2, f"{len(found)} neighbours of {len(addresses)}"


def fills_the_table_of_neighbours():
    near = know["uplink"] if own_link() == "uplink" else know["dyno"]
    first = struct.unpack(">I", socket.inet_aton(near))[0] & ~255
    asks_for({socket.inet_ntoa(struct.pack(">I", first + number)) for number in range(100, 250)}, socket.AF_INET)


def fills_the_table_of_neighbours_by_link_local():
    asks_for({f"fe80::{number:x}" for number in range(0x1000, 0x1096)}, socket.AF_INET6)


def reaches_another_dyno_by_link_local():
    connects_by_link_local(know["dyno_link_local"], know["dyno_port"])


def reaches_the_node_at_the_bridge():
    connects(know["bridge"], know["node_port"])


def reaches_the_node_at_its_address():
    connects(know["uplink"], know["node_port"])


def reaches_the_node_by_link_local():
    connects_by_link_local(know["bridge_link_local"], know["node_port"])


def reaches_the_metadata_service():
    connects("169.254.169.254", know["far_port"])


def reaches_private_networks():
    connects_to_any(know["private"], know["far_port"])


def sends_as_somebody_else():
    token = f"spoof-{random.getrandbits(64)}".encode()
    forged = socket.inet_aton(know["forged"])
    target = socket.inet_aton(know["internet"])
    udp = struct.pack(">HHHH", 4000, 9, 8 + len(token), 0) + token
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, forged, target)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(10):
            raw.sendto(header + udp, (know["internet"], 0))
            time.sleep(0.1)
            if [know["forged"], token.decode()] in ask_the_far_side()["tokens"]:
                return
    raise AssertionError("nobody has seen it")


def opens_connections_without_end():
    """Each is an entry in a table that the whole node shares."""
    wanted = range(10_000, 14_500)
    token = f"flood-{random.getrandbits(64)}"
    seen = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        # What was lost on the way is sent again.
        for _ in range(6):
            for number, port in enumerate(port for port in wanted if port not in seen):
                try:
                    sender.sendto(token.encode(), (know["internet"], port))
                except OSError:
                    pass
                if number % 100 == 99:
                    time.sleep(0.005)
            time.sleep(0.2)
            try:
                seen = set(ask_the_far_side()["flood"].get(token, []))
                if len(seen) == len(wanted):
                    break
            except TimeoutError:
                # It does not hear us, or is still busy with what it heard.
                continue
    assert len(seen) == len(wanted), f"{len(seen)} of {len(wanted)}"


def serve(port, secret):
    """What a neighbour does: answers on IPv4 and IPv6, and tells its link-local address."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    own = ""
    with open("/proc/net/if_inet6") as file:
        for line in file:
            digits, *_, device = line.split()
            if device == "eth0":
                own = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
    print(f"{secret} serves at {own}", flush=True)
    while True:
        connection, _ = server.accept()
        connection.close()


def be_the_far_side(port):
    """Watches every packet, and tells over TCP what it has seen."""
    tokens, flood = set(), {}
    watcher = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    watcher.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)

    def watch():
        while True:
            packet = watcher.recv(2048)[14:]
            if len(packet) < 28 or packet[9] != 17:
                continue
            head = (packet[0] & 15) * 4
            payload = packet[head + 8 :].rstrip(b"\0")
            if payload.startswith(b"flood-"):
                flood.setdefault(payload.decode(), []).append(struct.unpack(">H", packet[head + 2 : head + 4])[0])
            elif payload.startswith(b"spoof-"):
                tokens.add((socket.inet_ntoa(packet[12:16]), payload.decode()))

    threading.Thread(target=watch, daemon=True).start()
    # Its own answer to a datagram that nobody wants would only cost time.
    server = socket.create_server(("0.0.0.0", port))
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            try:
                connection.sendall(json.dumps({"tokens": list(tokens), "flood": flood}).encode())
            except OSError:
                pass
