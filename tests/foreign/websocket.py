"""A WebSocket client (RFC 6455) and one HTTP request, over plain sockets."""

import base64
import hashlib
import json
import os
import select
import socket
import struct
import time

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
# The document's numbers: after so many seconds of silence a side asks, and then gives up.
ASK_AFTER, GIVE_UP_AFTER = 15, 40


class Ended(Exception):
    """The connection is over."""


def dial(server):
    """A TCP connection whose port others may listen on and dial from."""
    family, kind, protocol, _, address = socket.getaddrinfo(*server, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.settimeout(20)
    sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
    sock.connect(address)
    return sock


def host_header(server):
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def post(server, path, body):
    """Sends JSON; returns the status and the JSON of the answer."""
    data = json.dumps(body).encode()
    with dial(server) as sock:
        sock.settimeout(60)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host_header(server)}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        sock.sendall(head.encode() + data)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


class WebSocket:
    """Messages are JSON objects, each in one text frame."""

    def __init__(self, server, path):
        self.sock = dial(server)
        self.buffer = b""
        self.fragments = b""
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host_header(server)}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.sock.sendall(request.encode())
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        if lines[0].split()[1] != "101":
            raise Ended(lines[0])
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        accept = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
        if headers["sec-websocket-accept"] != accept.lower():
            raise Ended("it is no WebSocket")
        self.heard = self.asked = time.monotonic()
        hello = self.hear(20)
        if hello is None or hello["type"] != "hello":
            raise Ended("it does not say hello")
        self.nonce = hello["nonce"]

    def fileno(self):
        return self.sock.fileno()

    def local_address(self):
        return self.sock.getsockname()[:2]

    def say(self, kind, **fields):
        self._send(TEXT, json.dumps({"type": kind, **fields}).encode())

    def hear(self, limit):
        """The next message, waiting up to `limit` seconds; None when none came."""
        until = time.monotonic() + limit
        while True:
            self._watch()
            message = self._parse()
            if message is not None:
                return message
            left = until - time.monotonic()
            ready, _, _ = select.select([self.sock], [], [], max(0, min(left, 1)))
            if ready:
                self._read()
            elif left <= 0:
                return None

    def close(self):
        try:
            self._send(CLOSE, struct.pack("!H", 1000))
        except OSError:
            pass
        self.sock.close()

    def _watch(self):
        now = time.monotonic()
        if now - self.heard > GIVE_UP_AFTER:
            raise Ended("the server is silent")
        if now - max(self.heard, self.asked) > ASK_AFTER:
            self.asked = now
            self._send(PING, b"")

    def _read(self):
        part = self.sock.recv(65536)
        if not part:
            raise Ended("the server has closed the connection")
        self.buffer += part
        self.heard = time.monotonic()

    def _send(self, opcode, data):
        mask = os.urandom(4)
        if len(data) < 126:
            size = struct.pack("!B", 0x80 | len(data))
        else:
            size = struct.pack("!BH", 0x80 | 126, len(data))
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.sock.sendall(bytes([0x80 | opcode]) + size + mask + masked)

    def _frame(self):
        if len(self.buffer) < 2:
            return None
        first, length = self.buffer[:2]
        start = 2
        if length in (126, 127):
            start = 4 if length == 126 else 10
            if len(self.buffer) < start:
                return None
            length = int.from_bytes(self.buffer[2:start], "big")
        if len(self.buffer) < start + length:
            return None
        data, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        return first & 0x80, first & 0x0F, data

    def _parse(self):
        while (frame := self._frame()) is not None:
            last, opcode, data = frame
            if opcode == PING:
                self._send(PONG, data)
            elif opcode == CLOSE:
                raise Ended("the server has closed the connection")
            elif opcode in (0, TEXT):
                self.fragments += data
                if last:
                    text, self.fragments = self.fragments, b""
                    return json.loads(text)
        return None
