"""Measures what a NAT does, from behind it: a small observer and a prober, independent of the code
under test.

    probe.py observe ADDRESS ADDRESS     the server's end, two ports on each address
    probe.py probe ADDRESS ADDRESS       the host's end; one line of JSON

A datagram says which of the four sockets shall answer. A TCP connection says from which address
the observer shall dial back. Every answer names the address that the observer saw.
"""

import json
import select
import socket
import sys
import time

PORTS = (3000, 3001)
WAIT = 0.3
TRIES = 2


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
                answer = json.dumps(source[:2]).encode()
                datagrams[int(question)].sendto(answer, source)
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
    dialer.settimeout(WAIT)
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


def ask(sock, server, port, answerer):
    """The address that was seen, or `None`."""
    for _ in range(TRIES):
        sock.sendto(str(answerer).encode(), (server, port))
        if select.select([sock], [], [], WAIT)[0]:
            return tuple(json.loads(sock.recv(200)))
    return None


def probe_udp(servers):
    def fresh():
        return reusable(any_address(servers[0]), 0, socket.SOCK_DGRAM)

    first, second = servers
    sock = fresh()
    if ask(sock, first, PORTS[0], 0) is None:
        return {"mapping": "blocked", "filtering": "blocked"}
    seen = [
        ask(sock, first, PORTS[0], 0),
        ask(sock, first, PORTS[1], 1),
        ask(sock, second, PORTS[0], 2),
        ask(sock, second, PORTS[1], 3),
    ]
    deltas = {b[1] - a[1] for a, b in zip(seen, seen[1:])}
    result = {
        "mapping": mapping(seen),
        "delta": deltas.pop() if len(deltas) == 1 else None,
        "preserved": seen[0][1] == sock.getsockname()[1],
        "translated": seen[0][0] != own_address(first),
    }
    if result["translated"]:
        fresh().sendto(b"hairpin", seen[0])
        back = select.select([sock], [], [], WAIT)[0]
        result["hairpin"] = bool(back) and sock.recv(100) == b"hairpin"
    sock = fresh()
    ask(sock, first, PORTS[0], 0)
    if ask(sock, first, PORTS[0], 3):
        result["filtering"] = "independent"
    elif ask(sock, first, PORTS[0], 1):
        result["filtering"] = "address"
    else:
        result["filtering"] = "address and port"
    # After a stray from an endpoint, is a packet to that endpoint still sent from the same port?
    sock = fresh()
    before = ask(sock, first, PORTS[0], 0)
    ask(sock, first, PORTS[0], 3)
    after = ask(sock, second, PORTS[1], 3)
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
        connection.settimeout(2)
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
