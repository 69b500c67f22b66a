#!/usr/bin/python3
"""A client of the pairing endpoint, written from docs/signalling.md and nothing else.

    pair.py vectors docs/signalling.md
    pair.py ask HOST:PORT KEY [udp|tcp] [--endpoint ADDRESS]… [--plain]
    pair.py connect HOST:PORT KEY [udp|tcp] [--stream]
            [--relay-only|--direct-only] [--shake-by-blobs] [--guess KEY]
    pair.py renew HOST:PORT USERNAME CREDENTIAL

With a protocol it is the initiator, else the receiver. `ask` uses HTTP and prints the answer.
`connect` uses a WebSocket: each line of standard input is a datagram of a `udp` session, and
each datagram a line of standard output; with `--stream`, and in a `tcp` session, both are the
bytes of one stream. `--shake-by-blobs` passes what the two shake hands with through the server
and not by the path. `renew` prints what the credentials are renewed by. Events go to standard error, one JSON object a line. With `--guess` it meets
under one key and uses another one. The exit code is 6 when the other side does not have the key,
1 when anything else failed.
"""

import argparse
import json
import sys
import time

import datagrams
import keys
import streams
import uses
import websocket
from datagrams import event


class ServerError(Exception):
    """The server answers with an error."""


class Meeting:
    """One connection to the endpoint, and the session on it."""

    def __init__(self, server, key, guess, protocol):
        self.key = guess or key
        self.role = "initiator" if protocol else "receiver"
        self.socket = websocket.WebSocket(server, "/v1/ws")
        join = {"role": self.role}
        if protocol:
            join["protocol"] = protocol
        # The nonce holds for the whole connection, and so does the proof.
        self.join = keys.Identity(key).prove(join, self.socket.nonce)
        self.paired = self.secrets = self.blobs = self.first_said = None
        # Whether the server has nothing more to say: that does not touch a path that works.
        self.over = False

    def pair(self, waiting):
        """Joins, and again while nobody waits; hands `waiting` what is known before the peer."""
        until = time.monotonic() + 20
        self.socket.say("join", **self.join)
        while not self.paired:
            message = self.socket.hear(60)
            if message is None:
                raise ServerError("no answer")
            if message["type"] == "waiting":
                event("waiting", observed=message["observed"])
                waiting(message)
            elif message["type"] == "paired":
                self.paired = message
            elif message.get("code") == "nobody_waits" and time.monotonic() < until:
                time.sleep(0.1)
                self.socket.say("join", **self.join)
            elif message["type"] == "error":
                raise ServerError(message["code"])
        assert self.paired["role"] == self.role, self.paired
        self._exchange_salts()
        fields = ("session", "protocol", "observed", "peer_observed", "ttl_s")
        event("paired", **{field: self.paired[field] for field in fields})

    def _exchange_salts(self):
        session = self.paired["session"]
        salt = keys.Salt(self.role)
        self.socket.say("signal", session=session, blob=salt.first_blob())
        while not self.secrets:
            message = self.socket.hear(20)
            if message is None or message["type"] == "peer_left":
                raise ServerError("the peer does not say its salt")
            if message["type"] == "error":
                raise ServerError(message["code"])
            if message["type"] == "signal" and message["session"] == session:
                salts, handshake = salt.both(message["blob"])
                self.secrets = keys.Secrets(self.key, session, salts)
                if handshake:
                    self.first_said = {"datagram": keys.to_text(handshake)}
        self.blobs = keys.Blobs(self.secrets, self.role)

    def tell(self, said):
        blob = self.blobs.seal(json.dumps(said).encode())
        self.socket.say("signal", session=self.paired["session"], blob=blob)

    def said(self):
        """What the peer has said since the last time."""
        if self.first_said:
            said, self.first_said = self.first_said, None
            yield said
        while not self.over and (message := self._heard()) is not None:
            if message["type"] == "signal" and message["session"] == self.paired["session"]:
                yield json.loads(self.blobs.open(message["blob"]))
            elif message["type"] == "error" and message["code"] != "no_session":
                raise ServerError(message["code"])

    def _heard(self):
        try:
            return self.socket.hear(0)
        except (websocket.Ended, OSError):
            self.over = True
            return None

    def leave(self, outcome):
        session = self.paired["session"]
        if not self.over:
            self.socket.say("result", session=session, outcome=outcome)
            self.socket.say("leave", session=session)
        self.socket.close()


def connect(options):
    meeting = Meeting(options.server, options.key, options.guess, options.protocol)
    session = datagrams.Datagrams(meeting, options)

    def waiting(message):
        if options.protocol == "udp" or options.relay_only:
            session.gather(message["ice_servers"])

    meeting.pair(waiting)
    if options.guess:
        # Before what the peer says shows that the guess is wrong.
        meeting.tell({})
    is_tcp = meeting.paired["protocol"] == "tcp"
    if is_tcp and not options.relay_only:
        streams.run(meeting, meeting.secrets, sys.stdin.buffer, sys.stdout.buffer)
        outcome = "direct"
    else:
        session.gather(meeting.paired["ice_servers"])
        session.begin(meeting.secrets)
        kind = uses.Bytes if options.stream or is_tcp else uses.Lines
        session.run(kind(sys.stdin.buffer, sys.stdout.buffer))
        outcome = session.now_on[0]
    meeting.leave(outcome)
    event("end", outcome=outcome)


def ask(options):
    body = {"role": "initiator" if options.protocol else "receiver"}
    if options.plain:
        body["access_key"] = options.key
    if options.protocol:
        body["protocol"] = options.protocol
    if options.endpoint:
        body["endpoints"] = options.endpoint
    own = keys.Identity(options.key)
    if not options.plain:
        body["id"] = own.id
    status, answer = websocket.post(options.server, "/v1/pair", body)
    for _ in range(3):
        if status != 401:
            break
        body = own.prove(body, answer["nonce"])
        status, answer = websocket.post(options.server, "/v1/pair", body)
    print(json.dumps({"status": status, "answer": answer}))


def renew(options):
    socket = websocket.WebSocket(options.server, "/v1/ws")
    socket.say("renew", username=options.username, credential=options.credential)
    print(json.dumps(socket.hear(20)))


def vectors(options):
    with open(options.document, encoding="utf-8") as document:
        print(f"{keys.check_vectors(document.read())} values are as the document says")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("vectors")
    command.add_argument("document")
    command.set_defaults(run=vectors)
    for name, run in (("ask", ask), ("connect", connect)):
        command = commands.add_parser(name)
        command.add_argument("server", type=datagrams.address_of)
        command.add_argument("key")
        command.add_argument("protocol", nargs="?", choices=["udp", "tcp"])
        command.set_defaults(run=run)
        if name == "ask":
            command.add_argument("--endpoint", action="append")
            command.add_argument("--plain", action="store_true")
        else:
            only = command.add_mutually_exclusive_group()
            only.add_argument("--relay-only", action="store_true")
            only.add_argument("--direct-only", action="store_true")
            command.add_argument("--stream", action="store_true")
            command.add_argument("--shake-by-blobs", action="store_true")
            command.add_argument("--guess")
    command = commands.add_parser("renew")
    command.add_argument("server", type=datagrams.address_of)
    command.add_argument("username")
    command.add_argument("credential")
    command.set_defaults(run=renew)
    options = parser.parse_args()
    try:
        options.run(options)
    except keys.Refused as error:
        event("error", message=str(error))
        sys.exit(6)


if __name__ == "__main__":
    main()
