"""A `udp` session: the relay first, checks, and Noise on whichever path."""

import json
import select
import socket
import sys
import time

import noise
import punch
import stun
import turn
import uses
from keys import Refused, from_text, to_text

FIRST, SECOND, SEALED = 10, 11, 12
SAID, PING, PONG, CLOSE, CLOSED = range(2, 7)
PROLOGUE = b"turnserver datagrams v1 initiator receiver "
# Where a datagram came from, or goes, that has no path.
BY_BLOB = ("blob", None)
REPEAT_S, PING_S, PATIENCE_S = 0.1, 0.25, 30


class Failed(Exception):
    """There is no connection, or there is none any more."""


def event(name, **fields):
    print(json.dumps({"event": name, **fields}), file=sys.stderr, flush=True)


def address_text(address):
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Window:
    """Takes each number once, and none far behind the latest."""

    SIZE = 2048

    def __init__(self):
        self.next, self.seen = 0, set()

    def take(self, number):
        if number in self.seen or number + self.SIZE <= self.next:
            return False
        self.seen.add(number)
        self.next = max(self.next, number + 1)
        if len(self.seen) > 2 * self.SIZE:
            self.seen = {number for number in self.seen if number + self.SIZE > self.next}
        return True


class Datagrams:
    """One session, from before it is paired to its end."""

    def __init__(self, meeting, options):
        self.meeting = meeting
        self.role = meeting.role
        self.relay_only, self.direct_only = options.relay_only, options.direct_only
        self.shakes_by_blobs = options.shake_by_blobs
        family = meeting.socket.sock.family
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((meeting.socket.local_address()[0], 0))
        self.relay = self.checks = self.handshake = self.first = self.second = None
        self.peer_relayed = self.seal = self.open = self.last = None
        # Whether something of the peer has come by a path, and was sealed.
        self.heard = self.is_open = False
        self.told = self.permitted = self.ready = self.closing = self.closed = False
        self.number, self.window, self.round = 0, Window(), 1
        self.now_on = None
        self.repeat_at = self.ping_at = self.close_at = 0

    def gather(self, ice_servers):
        """Asks for an allocation, as soon as anybody says where."""
        where = turn.address_of(ice_servers)
        if where and not self.direct_only:
            host, username, credential = where
            if self.relay:
                # Those of the wait make way for those of the pair.
                self.relay.use(username, credential)
                return
            ip = socket.getaddrinfo(*host, self.sock.family)[0][4][:2]
            self.relay = turn.Turn(self.sock, ip, username, credential)
            self.relay.allocate()

    def begin(self, secrets):
        """The peer is there."""
        if not self.relay_only:
            self.checks = punch.Checks(self.sock, self.role, secrets.check)
        self.handshake = noise.Handshake(secrets.psk, PROLOGUE + secrets.session)
        if self.role == "initiator":
            self.first = bytes([FIRST]) + self.handshake.write_first()
            self._put(self.first, BY_BLOB)

    def run(self, use):
        """Carries what it is used for, until that is over or the peer closes."""
        self.use, began = use, time.monotonic()
        while not self.closed:
            wanted = [self.sock] if self.meeting.over else [self.meeting.socket, self.sock]
            may = self.ready and not self.closing and (self._direct() or not self.direct_only)
            if may and use.wants():
                wanted.append(use.source)
            ready, _, _ = select.select(wanted, [], [], 0.02)
            if self.sock in ready:
                data, source = self.sock.recvfrom(65536)
                self._datagram(data, source[:2])
            for said in self.meeting.said():
                self._heard(said)
            if use.source in ready:
                use.read()
            use.tick()
            if use.is_over and not self.closing:
                self.closing = time.monotonic()
            self._tick()
            if not self.ready and time.monotonic() - began > PATIENCE_S:
                raise Failed("no path")
            if self.closing and time.monotonic() - self.closing > 5:
                raise Failed("the peer does not confirm the end")
        if self.relay:
            self.relay.release()

    def _direct(self):
        return self.checks.path if self.checks else None

    def _heard(self, said):
        """What the peer says, in a blob or on the path."""
        if "datagram" in said:
            self._protected(from_text(said["datagram"]), BY_BLOB)
        if self.checks and said.get("round", 0) > self.checks.round:
            self.checks.restart(said["round"])
            self.round = self.checks.round
        for candidate in said.get("candidates", []):
            address = address_of(candidate["address"])
            if candidate["kind"] == "relayed":
                self.peer_relayed, self.permitted = address, False
            elif self.checks:
                self.checks.add(address)

    def _tell(self):
        """Says once where this side may be reached."""
        candidates = []
        if self.relay:
            candidates.append({"kind": "relayed", "address": address_text(self.relay.relayed)})
        if not self.relay_only:
            own = {"kind": "host", "address": address_text(self.sock.getsockname()[:2])}
            candidates.append(own)
            if self.relay and address_text(self.relay.mapped) != own["address"]:
                mapped = address_text(self.relay.mapped)
                candidates.append({"kind": "server_reflexive", "address": mapped})
        self.meeting.tell({"candidates": candidates, "end": True, "round": self.round})
        self.told = True

    def _say(self, said):
        """Tells something that is new, by every way."""
        if not self.meeting.over:
            self.meeting.tell(said)
        if self.ready:
            self.send(SAID, json.dumps(said).encode())

    def _tick(self):
        now = time.monotonic()
        if self.relay:
            self.relay.tick()
        if not self.told and (self.direct_only or (self.relay and self.relay.relayed)):
            self._tell()
        if self.relay and self.relay.relayed and self.peer_relayed and not self.permitted:
            self.permitted = True
            self.relay.permit(self.peer_relayed)
        if self.checks:
            self.checks.tick()
            if self.checks.round != self.round:
                self.round = self.checks.round
                self._say({"round": self.round})
        path = self._path()
        if self.ready and path != self.now_on:
            self.now_on = path
            event("path", path=path[0], remote=address_text(path[1]))
        waits = self.first and not self.seal or self.second and not self.ready
        if waits and not self.shakes_by_blobs and now >= self.repeat_at:
            self.repeat_at = now + REPEAT_S
            self._put(self.first or self.second)
        if self.closing and now >= self.close_at:
            self.close_at = now + REPEAT_S
            self.send(CLOSE)
        elif self.seal and (self.first or self.is_open) and now >= self.ping_at:
            self.ping_at = now + PING_S
            self.send(PING, int(now * 1000).to_bytes(8, "big"))

    def _path(self):
        direct = self._direct()
        if direct:
            return "direct", direct
        if self.relay and self.peer_relayed in self.relay.peers:
            return "relayed", self.peer_relayed
        return None

    def _put(self, data, path=None):
        path = path or self._path()
        if path is None:
            return
        if path == BY_BLOB and not self.meeting.over:
            self.meeting.tell({"datagram": to_text(data)})
        elif path[0] == "direct":
            self.sock.sendto(data, path[1])
        elif path[0] == "relayed":
            self.relay.send(path[1], data)

    def send(self, kind, data=b"", path=None):
        sealed = self.seal.seal(self.number, bytes([kind]) + data)
        self._put(bytes([SEALED]) + self.number.to_bytes(8, "big") + sealed, path)
        self.number += 1

    def _datagram(self, data, source):
        path = ("direct", source)
        if data and data[0] < 4:
            try:
                message = stun.Message(data)
            except ValueError:
                return
            if not self.relay or source != self.relay.server:
                if self.checks:
                    self.checks.handle(message, source)
                return
            carried = self.relay.handle(message)
            if carried is None:
                return
            path, data = ("relayed", carried[0]), carried[1]
        if data and self.handshake:
            self._protected(data, path)

    def _protected(self, data, path):
        try:
            said = self._opened(data, path)
        except Refused:
            # A stranger's: it proves nothing and ends nothing.
            return
        if self.is_open and self.heard and not self.ready:
            self.ready = True
            self.use.begin(self)
        if said:
            # What came by a blob is answered by a path, where there is one.
            self._said(said[0], said[1:], self._path() or path if path == BY_BLOB else path)

    def _opened(self, data, path):
        """Shakes hands, or returns what was sealed."""
        kind, body = data[0], data[1:]
        if kind == FIRST and self.role == "receiver" and len(body) == noise.MESSAGE:
            if not self.second:
                self.handshake.read_first(body)
                self.second = bytes([SECOND]) + self.handshake.write_second()
                self.open, self.seal = self.handshake.split()
            if path == BY_BLOB or not self.shakes_by_blobs:
                self._put(self.second, path)
        elif kind == SECOND and self.first and not self.seal and len(body) == noise.MESSAGE:
            self.handshake.read_second(body)
            self.seal, self.open = self.handshake.split()
            # Shows the receiver that its answer came.
            self.send(PING, b"", path)
        elif kind == SEALED and self.open and len(body) > 8:
            number = int.from_bytes(body[:8], "big")
            said = self.open.open(number, body[8:])
            if self.window.take(number):
                self.is_open = True
                self.heard = self.heard or path != BY_BLOB
                if self.checks and path[0] == "direct":
                    self.checks.note(path[1])
                return said
        return None

    def _said(self, kind, data, path):
        if kind in (uses.DATA, uses.STREAMS):
            self.use.arrived(kind, data)
        elif kind == SAID:
            self._heard(json.loads(data))
        elif kind == PING:
            self.send(PONG, data, path)
        elif kind == CLOSE:
            self.send(CLOSED, b"", path)
            self.closed = True
        elif kind == CLOSED and self.closing:
            self.closed = True
