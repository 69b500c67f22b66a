"""A TURN client over UDP (RFC 8656): one allocation with the credentials of the pair."""

import hashlib
import time

import stun

RETRANSMIT_S = 0.5
TRIES = 7
# Permissions last 300 s and the allocation at least 600 s.
RENEW_S = 200


class Failed(Exception):
    """The relay refused, or does not answer."""


def address_of(ice_servers):
    """(host, port), username and credential of the first TURN server over UDP."""
    for server in ice_servers:
        urls = server["urls"]
        for url in [urls] if isinstance(urls, str) else urls:
            scheme, _, rest = url.partition(":")
            place, _, query = rest.partition("?")
            if scheme == "turn" and query in ("", "transport=udp"):
                host, colon, port = place.rpartition(":")
                if not colon or "]" in port:
                    host, port = place, 3478
                return (host.strip("[]"), int(port)), server["username"], server["credential"]
    return None


class Turn:
    """Sends requests and keeps the allocation; the owner of the socket hands it what comes."""

    def __init__(self, sock, server, username, credential):
        self.sock, self.server = sock, server
        self.username, self.credential = username, credential
        self.realm = self.nonce = self.key = None
        self.pending = {}
        self.relayed = self.mapped = None
        self.peers = set()
        self.renew_at = time.monotonic() + RENEW_S
        self.next = None

    def use(self, username, credential):
        """Goes on with other credentials of the same side, once no request is under way."""
        self.next = (username, credential)

    def allocate(self):
        def done(answer):
            self.relayed = answer.address(stun.XOR_RELAYED)
            self.mapped = answer.address(stun.XOR_MAPPED)

        transport = (stun.REQUESTED_TRANSPORT, bytes([17, 0, 0, 0]))
        self._request(stun.ALLOCATE, [transport], done)

    def permit(self, peer):
        """Lets this peer send, and lets datagrams go to it once the server has agreed."""
        def done(_):
            self.peers.add(peer)

        self._request(stun.CREATE_PERMISSION, [(stun.XOR_PEER, peer)], done)

    def send(self, peer, data):
        message = stun.Builder(stun.SEND, stun.INDICATION)
        message.add_address(stun.XOR_PEER, peer).add(stun.DATA, data)
        self.sock.sendto(message.bytes(), self.server)

    def release(self):
        """Gives the allocation back; the answer is of no interest."""
        self._request(stun.REFRESH, [(stun.LIFETIME, bytes(4))], lambda _: None)

    def tick(self):
        now = time.monotonic()
        for transaction, (data, at, tries, *rest) in list(self.pending.items()):
            if now >= at:
                if tries == TRIES:
                    raise Failed("the relay does not answer")
                again = now + RETRANSMIT_S * 2 ** min(tries, 3)
                self.pending[transaction] = (data, again, tries + 1, *rest)
                self.sock.sendto(data, self.server)
        if self.next and not self.pending:
            (self.username, self.credential), self.next = self.next, None
            self._make_key()
            if self.relayed:
                self._request(stun.REFRESH, [], lambda _: None)
        if self.relayed and now >= self.renew_at:
            self.renew_at = now + RENEW_S
            self._request(stun.REFRESH, [], lambda _: None)
            for peer in list(self.peers):
                self.permit(peer)

    def handle(self, message):
        """Takes a message from the server; returns (peer, data) when it carried some."""
        if message.kind == stun.INDICATION:
            if message.method == stun.DATA_METHOD:
                return message.address(stun.XOR_PEER), message.get(stun.DATA)
            return None
        if message.transaction not in self.pending:
            return None
        _, _, _, method, attributes, done, attempts = self.pending[message.transaction]
        if message.kind == stun.ERROR:
            del self.pending[message.transaction]
            if message.error() not in (401, 438) or attempts == 2:
                raise Failed(f"the relay refuses: {message.error()}")
            self.realm, self.nonce = message.get(stun.REALM), message.get(stun.NONCE)
            self._make_key()
            self._request(method, attributes, done, attempts + 1)
        elif message.is_signed(stun.INTEGRITY, self.key):
            del self.pending[message.transaction]
            done(message)
        return None

    def _make_key(self):
        if self.realm is not None:
            text = self.username.encode() + b":" + self.realm + b":" + self.credential.encode()
            self.key = hashlib.md5(text).digest()

    def _request(self, method, attributes, done, attempts=0):
        message = stun.Builder(method, stun.REQUEST)
        for attribute, value in attributes:
            if isinstance(value, tuple):
                message.add_address(attribute, value)
            else:
                message.add(attribute, value)
        if self.key:
            message.add(stun.USERNAME, self.username.encode())
            message.add(stun.REALM, self.realm).add(stun.NONCE, self.nonce)
            message.sign_sha1(self.key)
        data = message.fingerprint().bytes()
        again = time.monotonic() + RETRANSMIT_S
        self.pending[message.transaction] = (data, again, 1, method, attributes, done, attempts)
        self.sock.sendto(data, self.server)
