"""Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s (revision 34 of the Noise framework)."""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys import Refused

NAME = b"Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s"
MESSAGE = 48


def _hash(data):
    return hashlib.blake2s(data).digest()


def _hkdf(key, material, outputs):
    def mac(key, data):
        return hmac.new(key, data, hashlib.blake2s).digest()

    secret, made = mac(key, material), [b""]
    for number in range(outputs):
        made.append(mac(secret, made[-1] + bytes([number + 1])))
    return made[1:]


class Cipher:
    """One direction once the handshake is over; the numbers are given by the caller."""

    def __init__(self, key):
        self.cipher = ChaCha20Poly1305(key)

    @staticmethod
    def _nonce(number):
        return bytes(4) + number.to_bytes(8, "little")

    def seal(self, number, data, associated=b""):
        return self.cipher.encrypt(self._nonce(number), data, associated)

    def open(self, number, data, associated=b""):
        try:
            return self.cipher.decrypt(self._nonce(number), data, associated)
        except InvalidTag as error:
            raise Refused("it does not open") from error


class Handshake:
    """The pattern is `-> psk, e` and `<- e, ee`, both with an empty payload."""

    def __init__(self, psk, prologue):
        # The name is longer than a hash, so it is hashed.
        self.chain = self.hash = _hash(NAME)
        self.key = None
        self._mix_hash(prologue)
        self.psk = psk
        self.own = X25519PrivateKey.generate()

    def write_first(self):
        self._mix_psk()
        return self._write_ephemeral() + self._seal()

    def read_first(self, message):
        self._mix_psk()
        self._read_ephemeral(message[:32])
        self._open(message[32:])

    def write_second(self):
        ephemeral = self._write_ephemeral()
        self._mix_key(self.own.exchange(self.other))
        return ephemeral + self._seal()

    def read_second(self, message):
        self._read_ephemeral(message[:32])
        self._mix_key(self.own.exchange(self.other))
        self._open(message[32:])

    def split(self):
        """The ciphers from the initiator and from the receiver."""
        return [Cipher(key) for key in _hkdf(self.chain, b"", 2)]

    def _mix_hash(self, data):
        self.hash = _hash(self.hash + data)

    def _mix_key(self, material):
        self.chain, self.key = _hkdf(self.chain, material, 2)

    def _mix_psk(self):
        self.chain, mixed, self.key = _hkdf(self.chain, self.psk, 3)
        self._mix_hash(mixed)

    def _write_ephemeral(self):
        public = self.own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._mix_hash(public)
        self._mix_key(public)
        return public

    def _read_ephemeral(self, public):
        self._mix_hash(public)
        self._mix_key(public)
        self.other = X25519PublicKey.from_public_bytes(public)

    def _seal(self):
        sealed = Cipher(self.key).seal(0, b"", self.hash)
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed):
        Cipher(self.key).open(0, sealed, self.hash)
        self._mix_hash(sealed)
