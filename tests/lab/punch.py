"""The plainest hole punching there is, to see what the lab's NATs let through and what not.

    punch.py udp|tcp OBSERVER [--ttl N] [--sockets N | --probes N] [--gateway ADDRESS]

Prints the mapped address as JSON, reads the peer's from standard input, then prints how it went.
--ttl: starts with so low a TTL that openers die between the NATs. --sockets: as many
sockets, each of which sends to the peer. --probes: as many random ports of the peer are tried.
--gateway: asks the router there for a port.
"""

import argparse
import json
import random
import select
import socket
import struct
import sys
import time

from probe import PATIENCE, PORTS, Asker, any_address, reusable

LASTS = 2
LOW_TTL_LASTS = 0.5
EVERY = 0.02


def udp(options):
    sockets = [
        reusable(any_address(options.observer), 0, socket.SOCK_DGRAM)
        for _ in range(options.sockets)
    ]
    seen = Asker(sockets[0]).ask(options.observer, PORTS[0], 0)
    if options.gateway:
        seen = (seen[0], map_port(options.gateway, sockets[0].getsockname()[1]))
    peer = exchange(seen)
    if peer is None:
        return False
    if options.ttl:
        set_ttl(sockets, options.ttl)
    began = time.monotonic()
    due, low, probes = began, options.ttl, 0
    while (now := time.monotonic()) < began + LASTS:
        if low and now > began + LOW_TTL_LASTS:
            set_ttl(sockets, low := 0)
        if now >= due:
            to = peer
            if options.probes:
                # About 1,000 in a second, to ports that any NAT may choose.
                due += 0.001
                probes += 1
                to = (peer[0], random.randrange(1024, 65536))
                if probes > options.probes:
                    due = began + LASTS
                    continue
            else:
                due += EVERY if len(sockets) == 1 else 1
            for sock in sockets:
                sock.sendto(b"?", to)
        wait = max(0, min(due, began + LASTS) - time.monotonic())
        for sock in select.select(sockets, [], [], wait)[0]:
            got, source = sock.recvfrom(100)
            if got == b"?":
                # From where it comes the peer is reached, whatever the observer has seen.
                sock.sendto(b"!", source)
                sock.sendto(b"?", source)
            elif got == b"!":
                # The peer may not have its answer yet.
                linger(sock, time.monotonic() + 0.5)
                return True
    return False


def linger(sock, until):
    while (left := until - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            got, source = sock.recvfrom(100)
            if got == b"?":
                sock.sendto(b"!", source)


def set_ttl(sockets, ttl):
    """0 is the usual one."""
    for sock in sockets:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl or 64)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl or 64)


def tcp(options):
    listener = reusable(any_address(options.observer), 0, socket.SOCK_STREAM)
    listener.listen(8)
    port = listener.getsockname()[1]
    # It stays open: the mapping belongs to it.
    first = reusable(any_address(options.observer), port, socket.SOCK_STREAM)
    first.settimeout(PATIENCE)
    first.connect((options.observer, PORTS[0]))
    peer = exchange(tuple(json.loads(first.makefile().readline())))
    if peer is None:
        return False
    ends = time.monotonic() + LASTS
    while time.monotonic() < ends:
        dialer = reusable(any_address(options.observer), port, socket.SOCK_STREAM)
        dialer.setblocking(False)
        dialer.connect_ex(tuple(peer))
        readable, writable, _ = select.select([listener], [dialer], [], 0.7)
        if readable:
            return greeted(listener.accept()[0])
        if writable and dialer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            return greeted(dialer)
        dialer.close()
        time.sleep(random.uniform(0, EVERY))
    return False


def greeted(connection):
    connection.settimeout(1)
    try:
        connection.sendall(b"?")
        return connection.recv(1) == b"?"
    except OSError:
        return False


def map_port(gateway, port):
    """The outer port, by NAT-PMP (RFC 6886)."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.settimeout(2)
    sock.sendto(struct.pack("!BBHHHI", 0, 1, 0, port, port, 600), (gateway, 5351))
    _, _, result, _, _, outer, _ = struct.unpack("!BBHIHHI", sock.recv(100))
    assert result == 0, result
    return outer


def exchange(mapped):
    """Tells where this end is seen, and hears the same of the peer; `None` when one is nowhere."""
    print(json.dumps(mapped), flush=True)
    peer = json.loads(sys.stdin.readline())
    return tuple(peer) if mapped and peer else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("protocol", choices=("udp", "tcp"))
    parser.add_argument("observer")
    parser.add_argument("--ttl", type=int, default=0)
    parser.add_argument("--sockets", type=int, default=1)
    parser.add_argument("--probes", type=int, default=0)
    parser.add_argument("--gateway")
    arguments = parser.parse_args()
    through = (udp if arguments.protocol == "udp" else tcp)(arguments)
    print(json.dumps(through), flush=True)
