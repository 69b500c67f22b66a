"""Those who pair: connections to the pairing endpoint, and the many that wait on them."""

import json
import multiprocessing
import select
import socket
import struct
import time

# Seconds: what those who wait ask for, which no run may take; and patience with one answer.
WAIT, PATIENCE = 600, 10
# Seconds. The server pings what was silent for as long: those who wait come evenly over that time,
# so that the pings do, too.
SPREAD = 15
# First address of those who wait.
CROWD = 0x7F400000
TEXT, PING, PONG = 1, 9, 10


def frame(kind, payload=b""):
    """From a client, so masked: with zeros, which leave the payload as it is."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return bytes([0x80 | kind]) + length + bytes(4) + payload


def text(message):
    return frame(TEXT, json.dumps(message).encode())


def dial(server, source):
    """A connection from one of this machine's addresses, given as a number."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((socket.inet_ntoa(struct.pack("!I", source)), 0))
    sock.connect(server)
    return sock


class WebSocket:
    """A connection that has heard the hello."""

    def __init__(self, server, source):
        self.sock, self.buffer = dial(server, source), b""
        request = (
            "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        self.sock.sendall(request.encode())
        while b"\r\n\r\n" not in self.buffer:
            self.read()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head[:20]:
            raise RuntimeError(f"no WebSocket: {head[:80]}")
        self.nonce = self.expect("hello")["nonce"]

    def read(self):
        data = self.sock.recv(4096)
        if not data:
            raise RuntimeError("the server closed a connection")
        self.buffer += data

    def take(self):
        """The next frame that is here already, as its kind and payload; else None."""
        if len(self.buffer) < 2:
            return None
        begin, size = 2, self.buffer[1]
        if size == 126:
            begin, size = 4, int.from_bytes(self.buffer[2:4], "big")
        elif size > 126:
            raise RuntimeError("a frame of a length that the server never sends")
        if len(self.buffer) < begin + size:
            return None
        kind, payload = self.buffer[0] & 15, self.buffer[begin : begin + size]
        self.buffer = self.buffer[begin + size :]
        return kind, payload

    def expect(self, kind):
        """Waits for the next message, which is of this type."""
        while (found := self.take()) is None:
            self.read()
        return checked(found, kind)

    def wait(self, join):
        """Joins as an initiator, and is told that it waits."""
        self.sock.sendall(text(join))
        self.expect("waiting")


def checked(found, kind):
    message = json.loads(found[1]) if found[0] == TEXT else {"type": found[0]}
    if message["type"] != kind:
        raise RuntimeError(f"not {kind}: {message}")
    return message


class Crowd:
    """Those who wait, in a process of their own."""

    def __init__(self, server, count):
        self.count = count
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        given = (self.pipe, other, server, count)
        self.child = context.Process(target=wait_for_good, args=given, daemon=True)
        self.child.start()
        other.close()
        self.hear(SPREAD + 120)

    def hear(self, limit):
        if not self.pipe.poll(limit):
            raise RuntimeError(f"those who wait said nothing for {limit} s")
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            answer = "their process ended"
        if answer != self.count:
            raise RuntimeError(f"of {self.count:,} not all wait: {answer}")

    def check(self):
        """That all of them wait, and have heard nothing else."""
        try:
            self.pipe.send("all?")
        except OSError:
            # It has ended, and said why.
            pass
        self.hear(30)

    def end(self):
        self.child.kill()
        self.child.join()


def wait_for_good(others_end, pipe, server, count):
    """Opens the connections, then answers pings and the questions that come by the pipe."""
    # So that the pipe ends with the process that asks.
    others_end.close()
    try:
        poll, waiting, ended = select.epoll(), {}, []
        begin = time.monotonic()
        for number in range(count):
            while (left := begin + SPREAD * number / count - time.monotonic()) > 0:
                answer(poll, waiting, ended, left)
            peer = WebSocket(server, CROWD + number)
            # The key itself, as it costs this process nothing.
            key = f"waits {number}"
            join = {"type": "join", "role": "initiator", "access_key": key, "wait_s": WAIT}
            peer.wait(join)
            waiting[peer.sock.fileno()] = peer
            poll.register(peer.sock, select.EPOLLIN)
            if number % 50 == 0:
                answer(poll, waiting, ended, 0)
        pipe.send(len(waiting) if not ended else ended[0])
        poll.register(pipe, select.EPOLLIN)
        until = begin + WAIT
        while time.monotonic() < until:
            if not answer(poll, waiting, ended, 1, pipe.fileno()):
                continue
            pipe.recv()
            # What has come until now counts.
            answer(poll, waiting, ended, 0, pipe.fileno())
            pipe.send(len(waiting) if not ended else ended[0])
        pipe.send(f"{WAIT} s are over")
    except EOFError:
        pass
    except (OSError, RuntimeError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def answer(poll, waiting, ended, limit, pipe=None):
    """Waits up to `limit` seconds for what comes; whether the pipe has something."""
    asked = False
    # All at once, lest some be left when the question comes.
    for number, _ in poll.poll(limit, len(waiting) + 1):
        if number == pipe:
            asked = True
            continue
        peer = waiting[number]
        try:
            peer.read()
            while (found := peer.take()) is not None:
                if found[0] != PING:
                    raise RuntimeError(f"one that waited heard {found[1][:200]}")
                peer.sock.sendall(frame(PONG, found[1]))
        except (OSError, RuntimeError) as error:
            ended.append(str(error))
            poll.unregister(number)
            del waiting[number]
    return asked
