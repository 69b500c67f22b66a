"""A session whose direct path dies and comes back, with a line each way every few milliseconds.

Not a byte may be lost or come twice.
"""

import time

from attempt import Attempt, Failed

EVERY = 0.01
# Seconds.
TO_DIRECT = 15
TO_RELAY = 5
STAYS = 1


class Moves(Attempt):
    def run(self):
        try:
            return super().run()
        finally:
            # The next one begins with what is whole.
            self.lab.heal()

    def talk(self, result):
        initiator, receiver = self.go_direct()
        measured = result.moves = {}
        moved = time.monotonic()
        measured["gap while direct came"] = self.gap(0, moved)
        # For comparison: what the programs and this machine take by themselves.
        self.stay()
        measured["gap while nothing moved"] = self.gap(moved, time.monotonic())
        self.lab.cut()
        cut = time.monotonic()
        self.stream("relayed", TO_RELAY, lambda: self.all_paths("relayed"))
        measured["relayed after"] = time.monotonic() - cut
        self.stay()
        healed = time.monotonic()
        measured["gap while direct died"] = self.gap(cut - STAYS, healed)
        self.lab.heal()
        self.stream("direct again", TO_DIRECT, lambda: self.all_paths("direct"))
        measured["direct again after"] = time.monotonic() - healed
        self.stay()
        measured["gap while it came back"] = self.gap(healed - STAYS, time.monotonic())
        self.last_lines(initiator, receiver)
        result.connected = result.direct = True

    def go_direct(self):
        """Connects the two, until their lines have gone the direct way for a while."""
        both = self.connect()
        self.sent = {end: 0 for end in self.ends}
        # When each line came.
        self.came = {end: [] for end in self.ends}
        self.stream("first", TO_DIRECT, lambda: all(self.came.values()))
        self.stream("direct", TO_DIRECT, lambda: self.all_paths("direct"))
        self.stay()
        return both

    def last_lines(self, initiator, receiver):
        """All that was sent arrives, and both end."""
        expected = {
            end: b"".join(line(i) for i in range(self.sent[peer]))
            for end, peer in ((initiator, receiver), (receiver, initiator))
        }
        self.until(
            "deliver the last lines",
            TO_RELAY,
            lambda: all(len(end.got) >= len(expected[end]) for end in self.ends),
        )
        self.finish()
        for end in self.ends:
            if end.got != expected[end]:
                raise Failed(f"{end.name} got other bytes than were sent")

    def all_paths(self, path):
        return all(end.path() == path for end in self.ends)

    def stay(self):
        until = time.monotonic() + STAYS
        self.stream("stay", 2 * STAYS, lambda: time.monotonic() > until)

    def stream(self, what, seconds, done):
        """Sends and reads until `done`."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                words = "; ".join(f"{end.name}: {end.told()}" for end in self.ends)
                raise Failed(f"not {what} within {seconds} s: {words}")
            for end in self.ends:
                end.send(line(self.sent[end]))
                self.sent[end] += 1
            self.watch(EVERY, lambda: False)
            now = time.monotonic()
            for end in self.ends:
                lines = end.got.count(b"\n")
                self.came[end] += [now] * (lines - len(self.came[end]))

    def gap(self, since, until):
        """The longest time without a new line, at either end."""
        longest = 0
        for came in self.came.values():
            within = [at for at in came if since <= at <= until]
            longest = max([longest] + [b - a for a, b in zip(within, within[1:])])
        return longest


def line(number):
    return b"%08d the quick brown fox jumps over the lazy dog\n" % number
