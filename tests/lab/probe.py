"""Measures what a NAT does, from behind it: a small observer and a prober, independent of the code
under test.

    probe.py observe ADDRESS ADDRESS     the server's end, two ports on each address
    probe.py probe ADDRESS ADDRESS       the host's end; one line of JSON

A datagram says which of the four sockets shall answer. A TCP connection says from which address
the observer shall dial back. Every answer names the address that the observer saw, and one to a
datagram the question, so that a late one is not taken for that to the next.
"""

import json
import secrets
import select
import socket
import sys
import time

PORTS = (3000, 3001)
# Seconds: for an answer that must come, also from one that stands still for a while; and until a
# question is sent again.
PATIENCE = 5
AGAIN = 0.3
# For a connection, which the kernel of the other end answers without any process.
TO_DIAL = 1
# What may be kept out is sent so often before it counts as kept out.
ROUNDS = 3


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reusable(address, port, kind):
    """A socket that may share its port with others of this program."""
    made = socket.socket(family(address), kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((address, port))
    return made


def any_address(server):
    return "::" if ":" in server else "0.0.0.0"


def observe(addresses):
    """Answers for ever. An endpoint is 2 x address + port."""
    places = [(address, port) for address in addresses for port in PORTS]
    datagrams = [reusable(*place, socket.SOCK_DGRAM) for place in places]
    listeners = [reusable(*place, socket.SOCK_STREAM) for place in places]
    for listener in listeners:
        listener.listen(64)
    print("ready", flush=True)
    open_connections = {}
    while True:
        ready, _, _ = select.select(datagrams + listeners + list(open_connections), [], [])
        for one in ready:
            if one in datagrams:
                question, source = one.recvfrom(200)
                name, answerer = json.loads(question)
                datagrams[answerer].sendto(message(name, source[:2]), source)
            elif one in listeners:
                connection, source = one.accept()
                connection.sendall(json.dumps(source[:2]).encode() + b"\n")
                open_connections[connection] = source
            else:
                source = open_connections[one]
                try:
                    question = one.recv(1)
                except OSError:
                    question = b""
                if not question:
                    del open_connections[one]
                    one.close()
                    continue
                # From the same address, yet another port, or from the other address.
                address = addresses[int(question)]
                one.sendall(dial(address, source).encode() + b"\n")


def dial(address, to):
    """How an attempt to connect from an address ends."""
    dialer = socket.socket(family(address), socket.SOCK_STREAM)
    dialer.settimeout(TO_DIAL)
    dialer.bind((address, 0))
    try:
        dialer.connect(to)
        return "through"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "dropped"
    finally:
        dialer.close()


def message(name, content):
    return json.dumps([name, content]).encode()


class Asker:
    """A UDP socket, and what it has heard."""

    def __init__(self, sock):
        self.sock = sock
        # By the names of the questions.
        self.heard = {}

    def send(self, name, server, port, answerer):
        self.sock.sendto(message(name, answerer), (server, port))

    def ask(self, server, port, answerer):
        """The address that was seen, or `None` when there is no answer."""
        question = secrets.token_hex(8)
        ends = time.monotonic() + PATIENCE
        while question not in self.heard and (now := time.monotonic()) < ends:
            self.send(question, server, port, answerer)
            while question not in self.heard and (left := now + AGAIN - time.monotonic()) > 0:
                if select.select([self.sock], [], [], left)[0]:
                    name, seen = json.loads(self.sock.recv(200))
                    self.heard[name] = seen and tuple(seen)
        return self.heard.get(question)

    def hears(self, server, send):
        """Whether it gets what `send` sends under a name, or has sent. That is no matter of time:
        the answer that must come is asked for afterwards, and comes afterwards."""
        name = secrets.token_hex(8)
        for _ in range(ROUNDS):
            send(name)
            if self.ask(server, PORTS[0], 0) is None:
                raise RuntimeError("the observer answers no more")
            if name in self.heard:
                return True
        return False

    def hears_from(self, server, answerer):
        """Whether it gets what another endpoint sends than the one that it has sent to."""
        return self.hears(server, lambda name: self.send(name, server, PORTS[0], answerer))


def probe_udp(servers):
    def fresh():
        return Asker(reusable(any_address(servers[0]), 0, socket.SOCK_DGRAM))

    first, second = servers
    asker = fresh()
    if asker.ask(first, PORTS[0], 0) is None:
        return {"mapping": "blocked", "filtering": "blocked"}
    seen = [
        asker.ask(first, PORTS[0], 0),
        asker.ask(first, PORTS[1], 1),
        asker.ask(second, PORTS[0], 2),
        asker.ask(second, PORTS[1], 3),
    ]
    deltas = {b[1] - a[1] for a, b in zip(seen, seen[1:])}
    result = {
        "mapping": mapping(seen),
        "delta": deltas.pop() if len(deltas) == 1 else None,
        "preserved": seen[0][1] == asker.sock.getsockname()[1],
        "translated": seen[0][0] != own_address(first),
    }
    if result["translated"]:
        result["hairpin"] = asker.hears(
            first, lambda name: fresh().sock.sendto(message(name, None), seen[0])
        )
    asker = fresh()
    asker.ask(first, PORTS[0], 0)
    if asker.hears_from(first, 3):
        result["filtering"] = "independent"
    elif asker.hears_from(first, 1):
        result["filtering"] = "address"
    else:
        result["filtering"] = "address and port"
    # After a stray from an endpoint, is a packet to that endpoint still sent from the same port?
    asker = fresh()
    before = asker.ask(first, PORTS[0], 0)
    asker.hears_from(first, 3)
    after = asker.ask(second, PORTS[1], 3)
    result["stray moves port"] = result["mapping"] == "independent" and before != after
    return result


def mapping(seen):
    if len(set(seen)) == 1:
        return "independent"
    return "address" if seen[0] == seen[1] and seen[2] == seen[3] else "address and port"


def own_address(server):
    sock = socket.socket(family(server), socket.SOCK_DGRAM)
    sock.connect((server, 9))
    return sock.getsockname()[0]


def probe_tcp(servers):
    first, second = servers
    listener = reusable(any_address(first), 0, socket.SOCK_STREAM)
    listener.listen(8)
    port = listener.getsockname()[1]

    def connect(server, to):
        connection = reusable(any_address(first), port, socket.SOCK_STREAM)
        # The observer may be dialling for somebody else, twice.
        connection.settimeout(2 * TO_DIAL + PATIENCE)
        connection.connect((server, to))
        answers = connection.makefile()
        return connection, answers, tuple(json.loads(answers.readline()))

    def dialled(connection, answers, address):
        connection.sendall(str(address).encode())
        return answers.readline().strip()

    kept = connect(first, PORTS[0])
    seen = [kept[2]] + [
        connect(server, to)[2]
        for server, to in ((first, PORTS[1]), (second, PORTS[0]), (second, PORTS[1]))
    ]
    deltas = {b[1] - a[1] for a, b in zip(seen, seen[1:])}
    listener.close()
    listener = reusable(any_address(first), 0, socket.SOCK_STREAM)
    listener.listen(8)
    port = listener.getsockname()[1]
    connection, answers, _ = connect(first, PORTS[0])
    other = dialled(connection, answers, 1)
    same = dialled(connection, answers, 0)
    if other == "through":
        filtering = "independent"
    else:
        filtering = "address" if same == "through" else "address and port"
    return {
        "mapping": mapping(seen),
        "delta": deltas.pop() if len(deltas) == 1 else None,
        "preserved": seen[0][1] == kept[0].getsockname()[1],
        "filtering": filtering,
        "stray": other,
    }


if __name__ == "__main__":
    if sys.argv[1] == "observe":
        observe(sys.argv[2:])
    else:
        began = time.monotonic()
        found = {"udp": probe_udp(sys.argv[2:]), "tcp": probe_tcp(sys.argv[2:])}
        print(json.dumps(found | {"seconds": round(time.monotonic() - began, 1)}))
