"""What a `udp` session is used for: lines as datagrams, or one stream of bytes."""

import os

from quic import Quic

DATA, STREAMS = 0, 1
AT_ONCE = 16384


class Lines:
    """Each line of the source is a datagram, and each datagram a line of the sink."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink
        self.session = None
        self.is_over = False

    def begin(self, session):
        self.session = session

    def wants(self):
        return not self.is_over

    def read(self):
        line = self.source.raw.readline()
        if line:
            self.session.send(DATA, line.rstrip(b"\n"))
        else:
            self.is_over = True

    def arrived(self, kind, data):
        if kind == DATA:
            self.sink.write(data + b"\n")
            self.sink.flush()

    def tick(self):
        pass


class Bytes:
    """The source and the sink are one stream over the session, by QUIC."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink
        self.quic = None
        self.is_over = self.sink_closed = False

    def begin(self, session):
        def send(packet):
            session.send(STREAMS, packet)

        self.quic = Quic(session.role == "initiator", session.handshake.hash, send)

    def wants(self):
        return self.quic is not None and self.quic.wants()

    def read(self):
        data = os.read(self.source.fileno(), AT_ONCE)
        if data:
            self.quic.write(data)
        else:
            self.quic.finish()

    def arrived(self, kind, data):
        if kind == STREAMS and self.quic:
            self.quic.receive(data)

    def tick(self):
        if not self.quic or self.is_over:
            return
        self.quic.tick()
        while self.quic.received:
            self.sink.write(self.quic.received.pop(0))
        self.sink.flush()
        if self.quic.has_received_all() and not self.sink_closed:
            # Not `close`, which leaves the descriptor of standard output open.
            os.close(self.sink.fileno())
            self.sink_closed = True
        if self.quic.is_done() or self.quic.closed:
            self.quic.close()
            self.is_over = True
