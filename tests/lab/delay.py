#!/usr/bin/env python3
"""Distance: every packet through the middle router is held for a while.

    delay.py MILLISECONDS     in the router's namespace; says `ready` and goes on until it is killed

There is no netem in many kernels, so packets leave the kernel by a TUN device, wait here, and come
back. They keep their order. Of each way it is the only delay there is.
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


def insert(lab, milliseconds):
    """Puts the distance into a lab that is built."""
    process = lab.start(
        "middle",
        [sys.executable, os.path.abspath(__file__), str(milliseconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("there is no distance between the two")


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
    while True:
        wait = max(0, held[0][0] - time.monotonic()) if held else None
        # `select` wakes some 0.1 ms late; so much is waited for here.
        for _ in select.select([tun], [], [], wait and max(0, wait - 0.0002))[0]:
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
