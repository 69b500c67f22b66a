"""What follows from an access key, and sealed blobs: sections 2 and 4 of docs/signalling.md."""

import base64
import hashlib
import hmac
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SALT = b"turnserver pairing v1"


class Refused(Exception):
    """Something that only the holder of the key can make was made by somebody else."""


def hmac_sha256(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf_expand(key, info, length):
    """The second half of RFC 5869; the first one is an HMAC keyed by the salt."""
    out, block = b"", b""
    while len(out) < length:
        block = hmac_sha256(key, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:length]


def hkdf_sha256(secret, salt, info, length):
    """RFC 5869."""
    return hkdf_expand(hmac_sha256(salt or bytes(32), secret), info, length)


def to_text(data):
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def from_text(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Identity:
    """What the server is told instead of the key, and shown that this side has it."""

    def __init__(self, access_key):
        self.seed = hkdf_sha256(access_key.encode(), SALT, b"sign", 32)
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = to_text(hashlib.sha256(self.public).digest()[:16])

    def prove(self, join, nonce):
        """The same join, with the proof in it."""
        role = "host" if join.get("host") else join["role"]
        said = f"turnserver join v1 {nonce} {role} {self.id}"
        proof = {
            "public_key": to_text(self.public),
            "nonce": nonce,
            "signature": to_text(self.private.sign(said.encode())),
        }
        return {**join, "id": self.id, "proof": proof}


class Secrets:
    """The three secrets of a session. `salts` are the initiator's and the receiver's."""

    def __init__(self, access_key, session, salts):
        self.session = from_text(session)

        def derive(info):
            return hkdf_sha256(access_key.encode(), SALT, info, 32)

        self.psk = derive(b"psk" + self.session)
        self.check = derive(b"check" + self.session + b"".join(salts))
        self.seal = derive(b"seal" + self.session + b"".join(salts))


class Salt:
    """What a side draws for one session; the first blob tells it."""

    SIZE, HANDSHAKE = 16, 49

    def __init__(self, role):
        self.initiates = role == "initiator"
        self.own = os.urandom(self.SIZE)

    def first_blob(self):
        return to_text(self.own)

    def both(self, blob):
        """The salts in order, with the one of the peer's first blob, and the handshake in that."""
        try:
            data = from_text(blob)
        except ValueError as error:
            raise Refused("the first blob is no salt") from error
        salt, handshake = data[: self.SIZE], data[self.SIZE :]
        allowed = (0,) if self.initiates else (0, self.HANDSHAKE)
        if len(salt) != self.SIZE or len(handshake) not in allowed:
            raise Refused("the first blob is no salt")
        salts = [self.own, salt] if self.initiates else [salt, self.own]
        return salts, handshake


class Blobs:
    """Seals what one side says, and opens what the other one says, in order."""

    ROLES = {"initiator": 1, "receiver": 2}

    def __init__(self, secrets, role):
        self.cipher = ChaCha20Poly1305(secrets.seal)
        self.own = self.ROLES[role]
        self.sent = self.opened = 0

    def seal(self, said):
        blob = self.cipher.encrypt(self._nonce(self.own, self.sent), said, None)
        self.sent += 1
        return to_text(blob)

    def open(self, blob):
        try:
            nonce = self._nonce(3 - self.own, self.opened)
            said = self.cipher.decrypt(nonce, from_text(blob), None)
        except (InvalidTag, ValueError) as error:
            raise Refused("a blob that the holder of the key did not make") from error
        self.opened += 1
        return said

    @staticmethod
    def _nonce(side, number):
        return bytes([side, 0, 0, 0]) + number.to_bytes(8, "big")


def check_vectors(document):
    """Compares with every vector that the document has; returns how many values that were."""
    rows = {}
    for line in document.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3:
            rows[cells[0]] = cells[1:]

    def of_vector(at):
        salts = [from_text(rows[f"{role}'s salt"][at]) for role in ("initiator", "receiver")]
        return Secrets(rows["access key"][at], rows["session"][at], salts)

    count = 0
    for at in range(2):
        own, secrets = Identity(rows["access key"][at]), of_vector(at)
        join = {"role": "initiator", "host": True} if at == 0 else {"role": "receiver"}
        proof = own.prove(join, rows["nonce"][at])["proof"]
        for name, value in (
            ("sign", own.seed.hex()),
            ("public key", proof["public_key"]),
            ("rendezvous id", own.id),
            ("signature", proof["signature"]),
            ("check", secrets.check.hex()),
            ("psk", secrets.psk.hex()),
            ("seal", secrets.seal.hex()),
        ):
            assert value == rows[name][at], f"{name} of vector {at + 1}: {value}"
            count += 1
    # The sealed blobs are a block of two lines behind a sentence that says what is in them.
    block = document.split("### Blobs")[1].split("```\n")[1].split()
    secrets = of_vector(0)
    for blob, role, other, number in (
        (block[0], "initiator", "receiver", 0),
        (block[1], "receiver", "initiator", 1),
    ):
        maker, reader = Blobs(secrets, role), Blobs(secrets, other)
        maker.sent = reader.opened = number
        assert maker.seal(b'{"end":true}') == blob, f"blob {number} of the {role}"
        assert json.loads(reader.open(blob)) == {"end": True}
        count += 1
    return count
