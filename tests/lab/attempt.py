"""One attempt: two `turnctl connect` behind their NATs, a line each way, and how they say it went."""

import json
import os
import secrets
import selectors
import subprocess
import time
from dataclasses import asdict, dataclass

# Seconds. An attempt that is not over by then has failed.
LONGEST = 40
TO_WAIT = 10
TO_CONNECT = 15
TO_DELIVER = 8
TO_END = 8


@dataclass
class Result:
    """Times are in seconds from the moment when the first of the two was told of the pair."""

    pair: str
    protocol: str
    loss: float
    # Whether packets are lost several in a row.
    bursts: bool = False
    # Milliseconds of each way.
    delay: float = 0
    # Of the sources.
    commit: str = None
    connected: bool = False
    direct: bool = False
    first_byte: float = None
    to_direct: float = None
    reason: str = None
    # What went wrong, when it is not connected.
    error: str = None
    # Seconds by what took them, when the direct path was cut and healed, see `moves.py`, or a host
    # had another way into the net, see `roams.py`, and which one.
    moves: dict = None
    case: str = None

    def line(self):
        return json.dumps(asdict(self))


class Failed(Exception):
    pass


class End:
    """One `turnctl connect`."""

    def __init__(self, lab, side, command):
        self.name = f"{'initiator' if len(command) > 5 else 'receiver'} {side}"
        self.process = lab.start(
            side,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.got = b""
        self.errors = b""
        self.events = []
        self.paths = []
        self.arrived = None
        self.open = 2
        for pipe in (self.process.stdout, self.process.stderr):
            os.set_blocking(pipe.fileno(), False)

    def send(self, line):
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.name} ended: {self.told()}") from None

    def took(self, pipe, now):
        """Reads what is there; false at the end of a pipe."""
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            self.open -= 1
            return False
        if pipe is self.process.stdout:
            self.arrived = self.arrived or now
            self.got += data
            return True
        *lines, self.errors = (self.errors + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "text", "text": line.decode(errors="replace")}
            event["at"] = now
            self.events.append(event)
            if event["event"] == "path":
                self.paths.append(event)
        return True

    def when(self, *names):
        """When the first event of a name came."""
        return next((event["at"] for event in self.events if event["event"] in names), None)

    def path(self):
        return self.paths[-1]["path"] if self.paths else None

    def told(self):
        """Its last words."""
        return " / ".join(
            json.dumps({key: value for key, value in event.items() if key != "at"})
            for event in self.events[-4:]
        )


class Attempt:
    """Runs one; `server` is what `turnctl` gets as its server."""

    commit = None
    delay = 0

    def __init__(self, lab, turnctl, server, protocol, initiator, settle):
        self.lab = lab
        self.turnctl = turnctl
        self.server = server
        self.protocol = protocol
        self.sides = ("a", "b") if initiator == "a" else ("b", "a")
        # For so long a datagram path may still become direct.
        self.settle = settle
        self.ends = []
        self.selector = selectors.DefaultSelector()
        self.began = time.monotonic()

    def run(self):
        result = Result(
            pair="x".join(kind.name for kind in self.lab.kinds.values()),
            protocol=self.protocol,
            loss=self.lab.loss,
            bursts=self.lab.bursts,
            delay=self.delay,
            commit=self.commit,
        )
        try:
            self.talk(result)
        except Failed as failed:
            result.error = str(failed)
        finally:
            for end in self.ends:
                self.lab.end(end.process)
            self.selector.close()
        return result

    def talk(self, result):
        initiator, receiver = self.connect()
        spawned = time.monotonic()
        lines = [self.line(end) for end in self.ends]
        for end, line in zip(self.ends, lines):
            end.send(line)
        self.until(
            "deliver the first lines",
            TO_CONNECT,
            lambda: receiver.got == lines[0] and initiator.got == lines[1],
        )
        paired = [end.when("paired") for end in self.ends]
        start = min((at for at in paired if at), default=spawned)
        result.first_byte = max(end.arrived for end in self.ends) - start
        # A stream does not move; datagrams do, to the direct path.
        stays = self.protocol == "tcp"
        self.watch(
            self.settle,
            lambda: all(end.path() == "direct" for end in self.ends)
            or all(end.when("gave_up") or stays and end.path() for end in self.ends),
        )
        for end, peer in zip(self.ends, reversed(range(2))):
            line = self.line(end)
            lines[1 - peer] += line
            end.send(line)
        self.until(
            "deliver the second lines",
            TO_DELIVER,
            lambda: receiver.got == lines[0] and initiator.got == lines[1],
        )
        self.conclude(result, start)
        self.finish()
        if [receiver.got, initiator.got] != lines:
            raise Failed("more arrived than was sent")
        result.connected = True

    def connect(self):
        """Starts both; the receiver when somebody waits for it."""
        key = secrets.token_hex(16)
        command = [self.turnctl, "connect", self.server, key]
        initiator = self.start(self.sides[0], command + [self.protocol, "--json"])
        self.until("wait for the receiver", TO_WAIT, lambda: initiator.when("waiting"))
        return initiator, self.start(self.sides[1], command + ["--json"])

    def finish(self):
        """Ends both in order."""
        for end in self.ends:
            try:
                end.process.stdin.close()
            except BrokenPipeError:
                pass  # It has ended, and its code says how.
        self.until("end", TO_END, lambda: all(end.open == 0 for end in self.ends), ending=True)
        for end in self.ends:
            try:
                code = end.process.wait(timeout=TO_END)
            except subprocess.TimeoutExpired:
                raise Failed(f"{end.name} said all and did not end: {end.told()}") from None
            if code != 0:
                raise Failed(f"{end.name} ended with code {code}: {end.told()}")

    def conclude(self, result, start):
        for end in self.ends:
            if not end.paths:
                raise Failed(f"{end.name} never told its path")
        result.direct = all(end.path() == "direct" for end in self.ends)
        if result.direct:
            since = [first_direct(end.paths) for end in self.ends]
            result.to_direct = max(since) - start
        reasons = [end.paths[-1].get("reason") for end in self.ends]
        result.reason = next((reason for reason in reasons if reason), None)

    def start(self, side, command):
        end = End(self.lab, side, command)
        self.ends.append(end)
        for pipe in (end.process.stdout, end.process.stderr):
            self.selector.register(pipe, selectors.EVENT_READ, end)
        return end

    def line(self, end):
        """Bytes that are no text, but for the end of line."""
        return secrets.token_bytes(40).replace(b"\n", b" ") + end.name.encode() + b"\n"

    def until(self, what, seconds, done, ending=False):
        if not self.watch(seconds, done, ending):
            words = "; ".join(f"{end.name}: {end.told()}" for end in self.ends)
            raise Failed(f"did not {what} within {seconds} s: {words}")

    def watch(self, seconds, done, ending=False):
        """Reads until `done`; false when it was not in time."""
        deadline = min(time.monotonic() + seconds, self.began + LONGEST)
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in self.selector.select(left):
                if not key.data.took(key.fileobj, time.monotonic()):
                    self.selector.unregister(key.fileobj)
                    if not ending:
                        code = self.code(key.data)
                        raise Failed(f"{key.data.name} ended{code}: {key.data.told()}")
        return True

    def code(self, end):
        """Its exit code in words; its last words have been read then."""
        try:
            code = end.process.wait(timeout=1)
            while end.took(end.process.stderr, time.monotonic()):
                pass
        except (subprocess.TimeoutExpired, BlockingIOError):
            return ""
        return f" with code {code}"


def first_direct(paths):
    """When the direct path came that is still the path."""
    since = None
    for path in paths:
        if path["path"] != "direct":
            since = None
        elif since is None:
            since = path["at"]
    return since
