"""A `tcp` session: both sides dial each other and listen, prove themselves, and speak Noise."""

import hashlib
import hmac
import os
import queue
import socket
import threading
import time

import noise
from datagrams import Failed, address_of, address_text, event

MAGIC = b"tpn1"
PROOF, CHOICE = 1, 2
ROLES = {"initiator": 1, "receiver": 2}
LIMIT_S = 10
CHUNK = 16384


def exactly(sock, count):
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise OSError("it ended early")
        data += part
    return data


class Proofs:
    """The proofs on one connection."""

    def __init__(self, sock, role, check):
        self.sock, self.role = sock, ROLES[role]
        self.key = hmac.new(check, b"tcp punch", hashlib.sha256).digest()
        own = MAGIC + os.urandom(16)
        sock.sendall(own)
        other = exactly(sock, 20)
        if not other.startswith(MAGIC):
            raise OSError("it speaks something else")
        self.both = own + other if self.role == 1 else other + own

    def _made(self, step, role):
        text = self.both + bytes([step, role])
        return hmac.new(self.key, text, hashlib.sha256).digest()

    def prove(self, step):
        self.sock.sendall(self._made(step, self.role))

    def expect(self, step):
        proof = exactly(self.sock, 32)
        if not hmac.compare_digest(proof, self._made(step, 3 - self.role)):
            raise OSError("it is not the peer")


class Dialling:
    """Listens and dials until one connection is chosen."""

    def __init__(self, meeting, secrets):
        self.meeting, self.secrets = meeting, secrets
        self.local = meeting.socket.local_address()
        self.family = meeting.socket.sock.family
        self.verified = queue.Queue()
        self.over = threading.Event()
        self.dialled = set()
        self.listener = self._socket()
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _socket(self):
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(self.local)
        return sock

    def connection(self):
        """The connection that both sides agreed on."""
        self.meeting.tell({"tcp": {"addresses": [address_text(self.local)]}})
        self._dial(address_of(self.meeting.paired["peer_observed"]))
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            for said in self.meeting.said():
                for address in said.get("tcp", {}).get("addresses", []):
                    self._dial(address_of(address))
            try:
                proofs = self.verified.get(timeout=0.02)
                if self.meeting.role == "initiator":
                    proofs.prove(CHOICE)
                    proofs.expect(CHOICE)
            except (queue.Empty, OSError):
                continue
            self.over.set()
            self.listener.close()
            return proofs.sock
        raise Failed("no connection")

    def _dial(self, address):
        if address not in self.dialled:
            self.dialled.add(address)
            threading.Thread(target=self._repeat, args=(address,), daemon=True).start()

    def _repeat(self, address):
        while not self.over.is_set():
            try:
                sock = self._socket()
                sock.settimeout(2)
                sock.connect(address)
                self._verify(sock)
            except OSError:
                pass
            time.sleep(0.05)

    def _accept(self):
        while not self.over.is_set():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._verify, args=(sock,), daemon=True).start()

    def _verify(self, sock):
        try:
            sock.settimeout(LIMIT_S)
            proofs = Proofs(sock, self.meeting.role, self.secrets.check)
            proofs.prove(PROOF)
            proofs.expect(PROOF)
            if self.meeting.role == "receiver":
                proofs.expect(CHOICE)
                proofs.prove(CHOICE)
            self.verified.put(proofs)
        except OSError:
            sock.close()


class Stream:
    """Bytes in both directions, each of which ends alone."""

    def __init__(self, sock, role, secrets):
        self.sock = sock
        handshake = noise.Handshake(secrets.psk, secrets.session)
        if role == "initiator":
            self._put(handshake.write_first())
            handshake.read_second(self._take())
            self.seal, self.open = handshake.split()
        else:
            handshake.read_first(self._take())
            self._put(handshake.write_second())
            self.open, self.seal = handshake.split()
        sock.settimeout(None)
        self.sent = self.opened = 0

    def _put(self, message):
        self.sock.sendall(len(message).to_bytes(2, "big") + message)

    def _take(self):
        return exactly(self.sock, int.from_bytes(exactly(self.sock, 2), "big"))

    def write(self, data):
        """No data: the end of this direction."""
        self._put(self.seal.seal(self.sent, data))
        self.sent += 1

    def read(self):
        data = self.open.open(self.opened, self._take())
        self.opened += 1
        return data


def run(meeting, secrets, source, sink):
    """Copies both ways until both have ended."""
    sock = Dialling(meeting, secrets).connection()
    event("path", path="direct", remote=address_text(sock.getpeername()[:2]))
    stream = Stream(sock, meeting.role, secrets)

    def write():
        while data := source.read1(CHUNK):
            stream.write(data)
        stream.write(b"")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    while data := stream.read():
        sink.write(data)
        sink.flush()
    # Not `close`, which leaves the descriptor of standard output open.
    os.close(sink.fileno())
    writer.join()
