#!/usr/bin/env python3
"""Distance: every packet through the middle router is held for a while.

    delay.py MILLISECONDS     in the router's namespace; says `ready` and goes on until it is killed

There is no netem in many kernels, so packets leave the kernel by a TUN device, wait here, and come
back. They keep their order. Of each way it is the only delay there is, as long as this program runs;
each time when it has stood still it says `late`.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque

from lab import sh

DEVICE = "distance"
# Linux: TUNSETIFF; IFF_TUN with IFF_NO_PI.
TUNSETIFF, TUN = 0x400454CA, 0x1001
# Of the routes to the device; for what does not come from it.
TABLE = 7
# Packets under way; more are lost, as on any link.
MOST = 20000
# Seconds: it goes round so often also when there is nothing to do, and has stood still when that took
# so much longer.
ROUND, LATE = 0.02, 0.1


class Distance:
    """Put into a lab that is built."""

    def __init__(self, lab, milliseconds):
        command = [sys.executable, os.path.abspath(__file__), str(milliseconds)]
        process = lab.start("middle", command, stdout=subprocess.PIPE)
        self.said = process.stdout
        if self.said.readline() != b"ready\n":
            raise RuntimeError("there is no distance between the two")
        os.set_blocking(self.said.fileno(), False)

    def was_longer(self):
        """Whether packets may have taken longer than they should, since this was last asked."""
        return bool(self.said.read())


def divert(families):
    """What comes in by a wire goes to the device; what comes from there goes its way."""
    for family in families:
        sh(f"ip {family} route add default dev {DEVICE} table {TABLE}")
        for wire in ("server", "west", "east"):
            sh(f"ip {family} rule add iif {wire} lookup {TABLE} priority {TABLE}")


def main(seconds):
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), TUN))
    sh(f"ip link set {DEVICE} up")
    divert(("-4", "-6"))
    print("ready", flush=True)
    held = deque()
    began = time.monotonic()
    while True:
        before, began = began, time.monotonic()
        if began - before > ROUND + LATE:
            print("late", flush=True)
        wait = min(ROUND, held[0][0] - began) if held else ROUND
        # `select` wakes some 0.1 ms late; so much is waited for here.
        for _ in select.select([tun], [], [], max(0, wait - 0.0002))[0]:
            try:
                while True:
                    packet = os.read(tun, 65536)
                    if len(held) < MOST:
                        held.append((time.monotonic() + seconds, packet))
            except BlockingIOError:
                pass
        while held and held[0][0] <= time.monotonic():
            os.write(tun, held.popleft()[1])


if __name__ == "__main__":
    main(float(sys.argv[1]) / 1000)
