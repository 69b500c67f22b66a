"""TLS 1.3 (RFC 8446) for QUIC, as far as the two need it: one cipher suite, one group, and a
server's certificate of which only the key counts, which both sides compute. Messages go in and
out by the level at which they are protected; the packets are QUIC's affair."""

import datetime
import hashlib
import os

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys import hkdf_expand, hkdf_sha256, hmac_sha256

# Whether the client opens the stream, by the word that it says.
CLIENT_OPENS = {b"turnserver-streams-1": True, b"turnserver-serves-tcp-1": False}
OWN_WORD = b"turnserver-streams-1"
INITIAL, HANDSHAKE, APPLICATION = range(3)
CLIENT_HELLO, SERVER_HELLO, ENCRYPTED_EXTENSIONS = 1, 2, 8
CERTIFICATE, CERTIFICATE_VERIFY, FINISHED = 11, 15, 20
AES_128_GCM_SHA256, X25519, ED25519, TLS_1_3 = 0x1301, 0x001D, 0x0807, 0x0304
GROUPS, SIGNATURES, PROTOCOLS = 10, 13, 16
VERSIONS, KEY_SHARE, PARAMETERS = 43, 51, 57
PROVES = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"


class Broken(Exception):
    """The peer speaks in another way."""


def vector(data, size=2):
    """What stands behind its length."""
    return len(data).to_bytes(size, "big") + data


def short(*numbers):
    return b"".join(number.to_bytes(2, "big") for number in numbers)


def expand_label(secret, label, context, length):
    info = short(length) + vector(b"tls13 " + label, 1) + vector(context, 1)
    return hkdf_expand(secret, info, length)


def written(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate_of(key):
    """Names and dates mean nothing."""
    name, day = x509.Name([]), datetime.datetime(2000, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day)
    return builder.sign(key, None).public_bytes(Encoding.DER)


class Reader:
    """Takes apart what was received."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Broken("a message of TLS that is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def vector(self, size=2):
        return self.take(self.number(size))

    def extensions(self):
        inner, found = Reader(self.vector()), {}
        while inner.at < len(inner.data):
            kind = inner.number(2)
            found[kind] = inner.vector()
        return found


class Tls:
    """One side of a handshake."""

    def __init__(self, is_client, binding, parameters):
        seed = hkdf_sha256(binding, b"", b"turnserver streams v1", 32)
        self.signer = Ed25519PrivateKey.from_private_bytes(seed)
        self.is_client, self.parameters = is_client, parameters
        self.own = X25519PrivateKey.generate()
        self.transcript = b""
        self.buffers = [b"", b"", b""]
        self.peer_parameters = None
        self.complete, self.client_opens = False, True
        # What to send, as (level, bytes), and for each level the client's and the server's secret.
        self.out, self.secrets = [], {}
        if is_client:
            self._hello_client()

    def feed(self, level, data):
        """Takes what came at a level, in order."""
        self.buffers[level] += data
        while len(buffer := self.buffers[level]) >= 4:
            end = 4 + int.from_bytes(buffer[1:4], "big")
            if len(buffer) < end:
                return
            self.buffers[level] = buffer[end:]
            # Behind the handshake there are tickets, of which nobody makes use.
            if not self.complete:
                self._message(buffer[0], buffer[4:end], buffer[:end])

    def _message(self, kind, body, whole):
        takes = self._client_takes if self.is_client else self._server_takes
        if kind not in takes():
            raise Broken(f"a message of TLS that nobody waits for: {kind}")
        takes()[kind](body, whole)

    def _client_takes(self):
        return {
            SERVER_HELLO: self._server_hello,
            ENCRYPTED_EXTENSIONS: self._extensions,
            CERTIFICATE: self._certificate,
            CERTIFICATE_VERIFY: self._verify,
            FINISHED: self._server_finished,
        }

    def _server_takes(self):
        return {CLIENT_HELLO: self._client_hello, FINISHED: self._client_finished}

    def _say(self, level, kind, body):
        message = bytes([kind]) + vector(body, 3)
        self.transcript += message
        self.out.append((level, message))

    def _now(self):
        return hashlib.sha256(self.transcript).digest()

    def _derive(self, secret, label):
        return expand_label(secret, label, self._now(), 32)

    def _next_stage(self, secret, material):
        derived = expand_label(secret, b"derived", hashlib.sha256(b"").digest(), 32)
        return hmac_sha256(derived, material)

    def _agree(self, public):
        shared = self.own.exchange(X25519PublicKey.from_public_bytes(public))
        early = hmac_sha256(bytes(32), bytes(32))
        self.stage = self._next_stage(early, shared)
        self.secrets[HANDSHAKE] = [
            self._derive(self.stage, label) for label in (b"c hs traffic", b"s hs traffic")
        ]

    def _agree_application(self):
        self.stage = self._next_stage(self.stage, bytes(32))
        self.secrets[APPLICATION] = [
            self._derive(self.stage, label) for label in (b"c ap traffic", b"s ap traffic")
        ]

    def _finished(self, side):
        key = expand_label(self.secrets[HANDSHAKE][side], b"finished", b"", 32)
        return hmac_sha256(key, self._now())

    def _check_finished(self, side, body):
        if body != self._finished(side):
            raise Broken("a handshake of TLS that somebody has changed")

    def _own_public(self):
        return self.own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @staticmethod
    def _written(extensions):
        return vector(b"".join(short(kind) + vector(value) for kind, value in extensions))

    def _hello_client(self):
        share = short(X25519) + vector(self._own_public())
        extensions = [
            (VERSIONS, vector(short(TLS_1_3), 1)),
            (GROUPS, vector(short(X25519))),
            (SIGNATURES, vector(short(ED25519))),
            (KEY_SHARE, vector(share)),
            (PROTOCOLS, vector(vector(OWN_WORD, 1))),
            (PARAMETERS, self.parameters),
        ]
        body = short(0x0303) + os.urandom(32) + vector(b"", 1)
        body += vector(short(AES_128_GCM_SHA256)) + vector(b"\0", 1) + self._written(extensions)
        self._say(INITIAL, CLIENT_HELLO, body)

    def _server_hello(self, body, whole):
        self.transcript += whole
        reader = Reader(body)
        reader.take(34)
        reader.vector(1)
        if reader.number(2) != AES_128_GCM_SHA256:
            raise Broken("another cipher suite")
        reader.take(1)
        share = Reader(reader.extensions()[KEY_SHARE])
        share.take(2)
        self._agree(share.vector())

    def _extensions(self, body, whole):
        self.transcript += whole
        found = Reader(body).extensions()
        if found.get(PROTOCOLS) != vector(vector(OWN_WORD, 1)):
            raise Broken("another protocol")
        self.peer_parameters = found[PARAMETERS]

    def _certificate(self, body, whole):
        self.transcript += whole
        reader = Reader(body)
        reader.vector(1)
        certificate = x509.load_der_x509_certificate(Reader(reader.vector(3)).vector(3))
        if written(certificate.public_key()) != written(self.signer.public_key()):
            raise Broken("another key than the one that both compute")

    def _verify(self, body, whole):
        reader = Reader(body)
        reader.take(2)
        try:
            self.signer.public_key().verify(reader.vector(), PROVES + self._now())
        except InvalidSignature as error:
            raise Broken("a signature by another key") from error
        self.transcript += whole

    def _server_finished(self, body, whole):
        self._check_finished(1, body)
        self.transcript += whole
        self._agree_application()
        self._say(HANDSHAKE, FINISHED, self._finished(0))
        self.complete = True

    def _client_hello(self, body, whole):
        self.transcript += whole
        reader = Reader(body)
        reader.take(34)
        session = reader.vector(1)
        reader.vector()
        reader.vector(1)
        found = reader.extensions()
        self.peer_parameters = found[PARAMETERS]
        word = Reader(Reader(found[PROTOCOLS]).vector()).vector(1)
        if word not in CLIENT_OPENS:
            raise Broken("another protocol")
        self.client_opens = CLIENT_OPENS[word]
        shares, public = Reader(Reader(found[KEY_SHARE]).vector()), None
        while shares.at < len(shares.data):
            group, key = shares.number(2), shares.vector()
            public = key if group == X25519 else public
        share = short(X25519) + vector(self._own_public())
        extensions = [(VERSIONS, short(TLS_1_3)), (KEY_SHARE, share)]
        hello = short(0x0303) + os.urandom(32) + vector(session, 1)
        hello += short(AES_128_GCM_SHA256) + b"\0" + self._written(extensions)
        self._say(INITIAL, SERVER_HELLO, hello)
        self._agree(public)
        extensions = [
            (PROTOCOLS, vector(vector(word, 1))),
            (PARAMETERS, self.parameters),
        ]
        self._say(HANDSHAKE, ENCRYPTED_EXTENSIONS, self._written(extensions))
        entry = vector(certificate_of(self.signer), 3) + vector(b"")
        self._say(HANDSHAKE, CERTIFICATE, vector(b"", 1) + vector(entry, 3))
        signature = self.signer.sign(PROVES + self._now())
        self._say(HANDSHAKE, CERTIFICATE_VERIFY, short(ED25519) + vector(signature))
        self._say(HANDSHAKE, FINISHED, self._finished(1))
        self._agree_application()

    def _client_finished(self, body, _):
        self._check_finished(0, body)
        self.complete = True
