"""STUN messages (RFC 8489) and the attributes of TURN (RFC 8656) that are needed here."""

import hashlib
import hmac
import ipaddress
import os
import struct
import zlib

COOKIE = 0x2112A442
REQUEST, INDICATION, SUCCESS, ERROR = 0x000, 0x010, 0x100, 0x110
BINDING, ALLOCATE, REFRESH, SEND, DATA_METHOD, CREATE_PERMISSION = 1, 3, 4, 6, 7, 8

USERNAME, INTEGRITY, ERROR_CODE, LIFETIME = 0x0006, 0x0008, 0x0009, 0x000D
XOR_PEER, DATA, REALM, NONCE, XOR_RELAYED = 0x0012, 0x0013, 0x0014, 0x0015, 0x0016
REQUESTED_TRANSPORT, INTEGRITY_SHA256, XOR_MAPPED = 0x0019, 0x001C, 0x0020
PRIORITY, USE_CANDIDATE = 0x0024, 0x0025
FINGERPRINT, CONTROLLED, CONTROLLING = 0x8028, 0x8029, 0x802A


def _padded(data):
    return data + bytes(-len(data) % 4)


class Builder:
    """Writes a message attribute by attribute."""

    def __init__(self, method, kind, transaction=None):
        self.type = method | kind
        self.transaction = transaction or os.urandom(12)
        self.body = b""

    def add(self, attribute, value=b""):
        self.body += struct.pack("!HH", attribute, len(value)) + _padded(value)
        return self

    def add_address(self, attribute, address):
        ip = ipaddress.ip_address(address[0])
        mask = struct.pack("!I", COOKIE) + self.transaction
        xored = bytes(a ^ b for a, b in zip(ip.packed, mask))
        family = 1 if ip.version == 4 else 2
        head = struct.pack("!BBH", 0, family, address[1] ^ COOKIE >> 16)
        return self.add(attribute, head + xored)

    def _header(self, more):
        return struct.pack("!HHI", self.type, len(self.body) + more, COOKIE) + self.transaction

    def sign_sha1(self, key):
        text = self._header(24) + self.body
        return self.add(INTEGRITY, hmac.new(key, text, hashlib.sha1).digest())

    def sign_sha256(self, key):
        text = self._header(36) + self.body
        return self.add(INTEGRITY_SHA256, hmac.new(key, text, hashlib.sha256).digest())

    def fingerprint(self):
        crc = zlib.crc32(self._header(8) + self.body) ^ 0x5354554E
        return self.add(FINGERPRINT, struct.pack("!I", crc))

    def bytes(self):
        return self._header(0) + self.body


class Message:
    """A message that was received."""

    def __init__(self, data):
        if len(data) < 20:
            raise ValueError("shorter than a header")
        self.data = data
        self.type, length, cookie = struct.unpack("!HHI", data[:8])
        if self.type > 0x3FFF or cookie != COOKIE or length % 4 or len(data) != 20 + length:
            raise ValueError("no STUN message")
        self.kind, self.method = self.type & 0x110, self.type & ~0x110
        self.transaction = data[8:20]
        self.attributes, self.places = {}, {}
        at = 20
        while at < len(data):
            attribute, size = struct.unpack("!HH", data[at : at + 4])
            if at + 4 + size > len(data):
                raise ValueError("an attribute ends behind the message")
            self.attributes.setdefault(attribute, data[at + 4 : at + 4 + size])
            self.places.setdefault(attribute, at)
            at += 4 + size + -size % 4

    def get(self, attribute):
        return self.attributes.get(attribute)

    def address(self, attribute):
        value = self.attributes[attribute]
        family, port = struct.unpack("!BH", value[1:4])
        mask = struct.pack("!I", COOKIE) + self.transaction
        ip = bytes(a ^ b for a, b in zip(value[4:], mask))
        if len(ip) != {1: 4, 2: 16}.get(family):
            raise ValueError("an address of another length")
        return str(ipaddress.ip_address(ip)), port ^ COOKIE >> 16

    def error(self):
        value = self.get(ERROR_CODE)
        return value[2] * 100 + value[3] if value else None

    def is_signed(self, attribute, key):
        """Whether its integrity is that of the key; what comes behind it is not covered."""
        if attribute not in self.places:
            return False
        at = self.places[attribute]
        value = self.attributes[attribute]
        digest = hashlib.sha1 if attribute == INTEGRITY else hashlib.sha256
        length = at - 20 + 4 + len(value)
        text = self.data[:2] + struct.pack("!H", length) + self.data[4:at]
        return hmac.compare_digest(value, hmac.new(key, text, digest).digest())

    def has_good_fingerprint(self):
        at = self.places.get(FINGERPRINT)
        if at is None or at + 8 != len(self.data):
            return False
        crc = zlib.crc32(self.data[:at]) ^ 0x5354554E
        return self.get(FINGERPRINT) == struct.pack("!I", crc)
