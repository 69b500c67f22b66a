"""QUIC version 1 (RFC 9000 and 9001), as far as one byte stream between the two needs it: what is
sent goes out again when it is not acknowledged, and there is no other control of congestion than
a small window."""

import os
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import tls
from keys import hmac_sha256
from tls import APPLICATION, HANDSHAKE, INITIAL, Broken, expand_label

VERSION = 1
SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
DATAGRAM, CHUNK, WINDOW, ROOM, REPEAT_S = 1200, 1100, 40, 1 << 50, 0.3
# A stream begins with it, from the side that opens it.
OPENING = b"\1"
# Frames that are nothing but numbers: how many, by their types.
NUMBERS = {4: 3, 5: 2, 16: 1, 17: 2, 18: 1, 19: 1, 20: 1, 21: 2, 22: 1, 23: 1, 25: 1}
PADDING, PING, ACK, ACK_ECN, CRYPTO, NEW_TOKEN, STREAM = 0, 1, 2, 3, 6, 7, 8
MAX_DATA, MAX_STREAM_DATA, NEW_CID, CHALLENGE, RESPONSE = 0x10, 0x11, 0x18, 0x1A, 0x1B
CLOSE, CLOSE_APPLICATION, DONE = 0x1C, 0x1D, 0x1E
LONG_TYPES = {INITIAL: 0, HANDSHAKE: 2}


def number(value):
    """A variable-length integer."""
    for size, mark in ((1, 0), (2, 0x40), (4, 0x80), (8, 0xC0)):
        if value < 1 << (8 * size - 2):
            data = value.to_bytes(size, "big")
            return bytes([data[0] | mark]) + data[1:]
    raise ValueError(value)


class Reader(tls.Reader):
    def varint(self):
        first = self.take(1)[0]
        rest = self.take((1 << (first >> 6)) - 1)
        return int.from_bytes(bytes([first & 0x3F]) + rest, "big")

    def is_over(self):
        return self.at >= len(self.data)


class Keys:
    """Protects the packets of one direction at one level."""

    def __init__(self, secret, header=None):
        self.secret = secret
        self.aead = AESGCM(expand_label(secret, b"quic key", b"", 16))
        self.iv = expand_label(secret, b"quic iv", b"", 12)
        own_header = Cipher(algorithms.AES(expand_label(secret, b"quic hp", b"", 16)), modes.ECB())
        self.header = header or own_header

    def following(self):
        """Those after the next update (RFC 9001 section 6), which some peers begin very early."""
        return Keys(expand_label(self.secret, b"quic ku", b"", 32), self.header)

    def nonce(self, packet):
        return (int.from_bytes(self.iv, "big") ^ packet).to_bytes(12, "big")

    def mask(self, sample):
        return self.header.encryptor().update(sample)


class Space:
    """The packets of one level."""

    def __init__(self):
        self.seals = self.opens = None
        self.phase = 0
        self.next, self.sent, self.frames = 0, {}, []
        self.ranges, self.owes_ack = [], False
        self.crypto_sent, self.crypto = 0, Ordered()

    def is_new(self, packet):
        """Whether it did not come before; remembers it."""
        if any(low <= packet <= high for low, high in self.ranges):
            return False
        self.ranges.append((packet, packet))
        merged = []
        for low, high in sorted(self.ranges):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self.ranges = merged[-32:]
        return True

    def ack(self):
        (low, high), *others = reversed(self.ranges)
        frame = bytes([ACK]) + number(high) + number(0) + number(len(others)) + number(high - low)
        for below, above in others:
            frame += number(low - above - 2) + number(above - below)
            low = below
        self.owes_ack = False
        return frame

    def acknowledged(self, reader, with_ecn):
        high = reader.varint()
        reader.varint()
        count = reader.varint()
        low = high - reader.varint()
        while True:
            for packet in [packet for packet in self.sent if low <= packet <= high]:
                del self.sent[packet]
            if not count:
                break
            count -= 1
            high = low - reader.varint() - 2
            low = high - reader.varint()
        if with_ecn:
            for _ in range(3):
                reader.varint()


class Ordered:
    """Puts pieces together."""

    def __init__(self):
        self.pieces, self.next, self.end = {}, 0, None

    def add(self, offset, data):
        """Returns what is next, as far as it is there."""
        self.pieces[offset] = max(self.pieces.get(offset, b""), data, key=len)
        out = b""
        for start in sorted(self.pieces):
            if start > self.next:
                break
            piece = self.pieces.pop(start)[self.next - start :]
            out += piece
            self.next += len(piece)
        return out


class Quic:
    """One connection with one stream."""

    def __init__(self, is_client, binding, send):
        self.is_client, self.send = is_client, send
        self.own_id, self.peer_id = os.urandom(8), os.urandom(8)
        self.binding, self.tls = binding, None
        self.spaces = [Space(), Space(), Space()]
        self.incoming, self.received = Ordered(), []
        self.waiting, self.offset, self.ends, self.end_sent = b"", 0, False, False
        # Of the stream: whether this side has to open it, what it is called, and how many bytes
        # at its begin are not the application's.
        self.opens, self.stream, self.skip = is_client, 0, 0 if is_client else 1
        self.limits = {}
        self.closed = self.told_done = False
        if is_client:
            self.waiting = OPENING
            self._begin(self.peer_id)

    def write(self, data):
        self.waiting += data

    def finish(self):
        self.ends = True

    def wants(self):
        """Whether more may be written."""
        return len(self.waiting) < 4 * CHUNK and not self.ends

    def has_received_all(self):
        return self.incoming.end == self.incoming.next

    def is_done(self):
        """Whether both directions have ended, and the peer knows."""
        space = self.spaces[APPLICATION]
        delivered = self.end_sent and not space.sent and not space.frames
        return self.has_received_all() and delivered

    def close(self):
        """In order."""
        if self.spaces[APPLICATION].seals:
            frame = bytes([CLOSE_APPLICATION]) + number(0) + number(0)
            self._packet(APPLICATION, frame, [])

    def _begin(self, first_id):
        common = hmac_sha256(SALT, first_id)
        sides = [expand_label(common, label, b"", 32) for label in (b"client in", b"server in")]
        self._install(INITIAL, sides)
        values = [(0x0F, self.own_id)]
        if not self.is_client:
            values.append((0x00, first_id))
        # No idle timeout: the session below has its own. Room for any number of bytes.
        numbers = {0x03: DATAGRAM, 0x04: ROOM, 0x05: ROOM, 0x06: ROOM, 0x08: 1}
        values += [(name, number(value)) for name, value in numbers.items()]
        parameters = b"".join(number(name) + number(len(v)) + v for name, v in values)
        self.tls = tls.Tls(self.is_client, self.binding, parameters)

    def _install(self, level, secrets):
        own, peer = secrets if self.is_client else reversed(secrets)
        self.spaces[level].seals, self.spaces[level].opens = Keys(own), Keys(peer)

    def _take_parameters(self, data):
        reader = Reader(data)
        while not reader.is_over():
            name = reader.varint()
            value = reader.take(reader.varint())
            if name in (0x04, 0x05, 0x06):
                self.limits[name] = Reader(value).varint()
        if not self.is_client and not self.tls.client_opens:
            self.opens, self.stream, self.skip = True, 1, 0
            self.waiting = OPENING + self.waiting
        # What this side opens is "remote" to the peer, who says so.
        stream = self.limits.get(0x06 if self.opens else 0x05, 0)
        self.limits = {MAX_DATA: self.limits.get(0x04, 0), MAX_STREAM_DATA: stream}

    def tick(self):
        """Sends what is due."""
        if not self.tls:
            return
        self._carry()
        now = time.monotonic()
        for level, space in enumerate(self.spaces):
            if not space.seals:
                continue
            for packet, (sent_at, frames) in list(space.sent.items()):
                if now - sent_at > REPEAT_S:
                    del space.sent[packet]
                    space.frames = frames + space.frames
            while space.frames and len(space.sent) < WINDOW:
                frames, size = [], 0
                while space.frames and size + len(space.frames[0]) <= CHUNK + 30:
                    frames.append(space.frames.pop(0))
                    size += len(frames[-1])
                ack = space.ack() if space.ranges and size < CHUNK - 100 else b""
                self._packet(level, ack + b"".join(frames), frames)
            if space.owes_ack:
                self._packet(level, space.ack(), [])

    def _carry(self):
        """Makes frames of what TLS and the application have to say."""
        for level, data in self.tls.out:
            space = self.spaces[level]
            for at in range(0, len(data), CHUNK):
                piece = data[at : at + CHUNK]
                head = bytes([CRYPTO]) + number(space.crypto_sent) + number(len(piece))
                space.frames.append(head + piece)
                space.crypto_sent += len(piece)
        self.tls.out = []
        space = self.spaces[APPLICATION]
        if self.tls.complete and not self.is_client and not self.told_done:
            self.told_done = True
            space.frames.append(bytes([DONE]))
        # Before the peer has opened its stream there is none.
        if not self.tls.complete or not (self.opens or self.incoming.next):
            return
        while len(space.frames) < WINDOW and not self.end_sent:
            room = min(self.limits.values()) - self.offset
            piece = self.waiting[: min(CHUNK, room)]
            self.waiting = self.waiting[len(piece) :]
            last = self.ends and not self.waiting
            if not piece and not last:
                return
            head = bytes([STREAM | 6 | last]) + number(self.stream) + number(self.offset)
            space.frames.append(head + number(len(piece)) + piece)
            self.offset += len(piece)
            self.end_sent = last

    def _packet(self, level, payload, frames):
        space = self.spaces[level]
        packet, space.next = space.next, space.next + 1
        if frames:
            space.sent[packet] = (time.monotonic(), frames)
        if level == APPLICATION:
            header = bytes([0x43 | space.phase << 2]) + self.peer_id
        else:
            header = bytes([0xC3 | LONG_TYPES[level] << 4]) + VERSION.to_bytes(4, "big")
            header += tls.vector(self.peer_id, 1) + tls.vector(self.own_id, 1)
            if level == INITIAL:
                header += number(0)
                payload += bytes(DATAGRAM - len(header) - 2 - 4 - 16 - len(payload))
            header += (0x4000 | len(payload) + 4 + 16).to_bytes(2, "big")
        at = len(header)
        header += packet.to_bytes(4, "big")
        sealed = space.seals.aead.encrypt(space.seals.nonce(packet), payload, header)
        mask = space.seals.mask(sealed[:16])
        first = header[0] ^ mask[0] & (0x1F if level == APPLICATION else 0x0F)
        masked = bytes(a ^ b for a, b in zip(header[at:], mask[1:5]))
        self.send(bytes([first]) + header[1:at] + masked + sealed)

    def receive(self, data):
        """Takes the packets of a datagram."""
        while data:
            data = self._one_packet(data)

    def _one_packet(self, data):
        reader = Reader(data)
        first = reader.number(1)
        if first & 0x80:
            version = reader.number(4)
            to, source = reader.vector(1), reader.vector(1)
            level = {0: INITIAL, 2: HANDSHAKE}.get(first >> 4 & 3)
            if version != VERSION or level is None:
                return b""
            if level == INITIAL:
                reader.take(reader.varint())
                if not self.tls:
                    self._begin(to)
                self.peer_id = source
            length = reader.varint()
            start, end = reader.at, reader.at + length
        else:
            level, start, end = APPLICATION, 1 + len(self.own_id), len(data)
        space = self.spaces[level]
        if space.opens and self._open(level, space, data[:end], start):
            for level, secrets in self.tls.secrets.items():
                if not self.spaces[level].seals:
                    self._install(level, secrets)
            if not self.limits and self.tls.peer_parameters:
                self._take_parameters(self.tls.peer_parameters)
        return data[end:]

    def _open(self, level, space, data, start):
        keys = space.opens
        mask = keys.mask(data[start + 4 : start + 20])
        first = data[0] ^ mask[0] & (0x1F if level == APPLICATION else 0x0F)
        size = (first & 3) + 1
        cut = bytes(a ^ b for a, b in zip(data[start : start + size], mask[1:]))
        header = bytes([first]) + data[1:start] + cut
        # The number that is nearest to the one after the highest.
        whole, expected = 1 << 8 * size, space.ranges[-1][1] + 1 if space.ranges else 0
        packet = int.from_bytes(cut, "big") + expected // whole * whole
        packet = min((packet - whole, packet, packet + whole), key=lambda n: abs(n - expected))
        phase = first >> 2 & 1 if level == APPLICATION else 0
        if phase != space.phase:
            keys = keys.following()
        try:
            payload = keys.aead.decrypt(keys.nonce(max(packet, 0)), data[start + size :], header)
        except InvalidTag:
            return False
        if phase != space.phase:
            space.opens, space.seals, space.phase = keys, space.seals.following(), phase
        if space.is_new(packet):
            reader = Reader(payload)
            while not reader.is_over():
                self._frame(level, space, reader)
        return True

    def _frame(self, level, space, reader):
        kind = reader.varint()
        if kind in (ACK, ACK_ECN):
            space.acknowledged(reader, kind == ACK_ECN)
            return
        if kind in (CLOSE, CLOSE_APPLICATION):
            code = reader.varint()
            if kind == CLOSE:
                reader.varint()
            reason = reader.take(reader.varint())
            if code:
                raise Broken(f"QUIC was closed: {code} {reason.decode()}")
            self.closed = True
            return
        space.owes_ack = space.owes_ack or kind != PADDING
        if kind == CRYPTO:
            offset = reader.varint()
            data = space.crypto.add(offset, reader.take(reader.varint()))
            self.tls.feed(level, data)
        elif STREAM <= kind < STREAM + 8:
            self._stream(kind, reader)
        elif kind == NEW_TOKEN:
            reader.take(reader.varint())
        elif kind == NEW_CID:
            reader.varint(), reader.varint(), reader.vector(1), reader.take(16)
        elif kind == CHALLENGE:
            space.frames.append(bytes([RESPONSE]) + reader.take(8))
        elif kind in NUMBERS:
            values = [reader.varint() for _ in range(NUMBERS[kind])]
            if kind in (MAX_DATA, MAX_STREAM_DATA):
                self.limits[kind] = max(self.limits[kind], values[-1])
        elif kind not in (PADDING, PING, DONE):
            raise Broken(f"a frame of QUIC that nobody knows: {kind}")

    def _stream(self, kind, reader):
        if reader.varint() != self.stream:
            raise Broken("another stream")
        offset = reader.varint() if kind & 4 else 0
        rest = len(reader.data) - reader.at
        data = reader.take(reader.varint() if kind & 2 else rest)
        if kind & 1:
            self.incoming.end = offset + len(data)
        data = self.incoming.add(offset, data)
        skipped = data[: self.skip]
        if skipped.strip(OPENING):
            raise Broken("a stream that begins in another way")
        self.skip -= len(skipped)
        self.received.append(data[len(skipped) :])
