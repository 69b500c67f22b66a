"""Connectivity checks: STUN requests that only the two can make find a direct path."""

import os
import struct
import time

import stun

# Often at first, then now and then; the path in use as often as data would ask for.
OFTEN_S, OFTEN_FOR_S, SELDOM_S = 0.05, 10, 0.5
ASK_S, DEAD_S = 0.1, 0.85
PRIORITY = struct.pack("!I", 0x6E0001FF)


class Remote:
    """An address at which the peer may be reached."""

    def __init__(self):
        self.answered = self.heard = False


class Checks:
    """Sends and answers checks on one socket."""

    def __init__(self, sock, role, key):
        self.sock, self.key = sock, key
        self.initiates = role == "initiator"
        self.remotes, self.sent, self.seen = {}, {}, set()
        self.number = 0
        self.began = time.monotonic()
        self.next_at = 0
        # The address that both sides agreed on, and when the peer was heard there.
        self.path, self.path_heard = None, 0
        self.round = 1

    def add(self, address):
        if address not in self.remotes:
            self.remotes[address] = Remote()
            self.next_at = 0

    def restart(self, number):
        """Begins another attempt."""
        self.round, self.path = number, None
        self.began, self.next_at = time.monotonic(), 0
        for remote in self.remotes.values():
            remote.answered = remote.heard = False

    def note(self, source):
        """The peer was heard from there."""
        if source == self.path:
            self.path_heard = time.monotonic()

    def tick(self):
        now = time.monotonic()
        if self.path and now - self.path_heard > DEAD_S:
            self.restart(self.round + 1)
        if now < self.next_at:
            return
        if self.path:
            self.next_at = now + ASK_S
            self._ask(self.path, self.initiates)
            return
        self.next_at = now + (OFTEN_S if now - self.began < OFTEN_FOR_S else SELDOM_S)
        for address, remote in self.remotes.items():
            self._ask(address, self.initiates and remote.answered and remote.heard)

    def handle(self, message, source):
        if message.method != stun.BINDING or not message.has_good_fingerprint():
            return
        if not message.is_signed(stun.INTEGRITY_SHA256, self.key):
            return
        if message.kind == stun.REQUEST:
            self._answer(message, source)
        elif message.kind == stun.SUCCESS and self.sent.pop(message.transaction, None) == source:
            self.remotes[source].answered = True
            if self.initiates and message.get(stun.USE_CANDIDATE) is not None:
                self.path = source
            self.note(source)

    def _ask(self, address, nominates):
        self.number += 1
        transaction = os.urandom(12)
        message = stun.Builder(stun.BINDING, stun.REQUEST, transaction)
        message.add(stun.PRIORITY, PRIORITY)
        role = stun.CONTROLLING if self.initiates else stun.CONTROLLED
        message.add(role, self.number.to_bytes(8, "big"))
        if nominates:
            message.add(stun.USE_CANDIDATE)
        self.sent[transaction] = address
        self._send(message, address)

    def _answer(self, message, source):
        number = message.get(stun.CONTROLLED if self.initiates else stun.CONTROLLING)
        if number is None or number in self.seen:
            # A reflection of what this side sent, or a repetition.
            return
        self.seen.add(number)
        self.add(source)
        remote = self.remotes[source]
        remote.heard = True
        answer = stun.Builder(stun.BINDING, stun.SUCCESS, message.transaction)
        answer.add_address(stun.XOR_MAPPED, source)
        nominated = not self.initiates and message.get(stun.USE_CANDIDATE) is not None
        if nominated and remote.answered:
            answer.add(stun.USE_CANDIDATE)
            self.path = source
        self.note(source)
        self._send(answer, source)

    def _send(self, message, address):
        try:
            self.sock.sendto(message.sign_sha256(self.key).fingerprint().bytes(), address)
        except OSError:
            # An address that this machine has no route to.
            pass
