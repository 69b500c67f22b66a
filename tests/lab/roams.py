"""A session one of whose hosts gets another way into the net, with a line each way every few
milliseconds. Not a byte may be lost or come twice, and the lines shall go on soon. Each attempt
takes a lab of its own, with a spare uplink.
"""

import time

from attempt import Failed
from moves import TO_DIRECT, Moves

# Seconds: how long lines may take to go on, and how long they are watched then.
TO_GO_ON = 12
WATCHED = 3
DOWN = 1

FAMILIES = {"v4": (4,), "v6": (6,), "dual": (4, 6)}


def cases():
    """As words, which `Roams.change` knows."""
    switches = [f"{old} to {new}" for old in FAMILIES for new in FAMILIES]
    return switches + ["new address", "two uplinks", "down and up", "new outer address", "NAT reboots"]


class Roams(Moves):
    """Host `a` moves; `case` says how."""

    case = None

    def talk(self, result):
        result.case = self.case
        # The other cases are of IPv4, and only of that, or IPv6 would go on as if nothing were.
        before = self.case.split(" to ")[0] if " to " in self.case else "v4"
        self.lab.leave()
        self.use("a", before)
        initiator, receiver = self.go_direct()
        measured = result.moves = {}
        began = time.monotonic()
        outage = self.change()
        there = time.monotonic()
        self.stream("going on", TO_GO_ON, lambda: self.go_on(there))
        until = time.monotonic() + WATCHED
        self.stream("watched", 2 * WATCHED, lambda: time.monotonic() > until)
        measured["gap after a move"] = max(0, self.gap(began - 1, time.monotonic()) - outage)
        self.stream("direct again", TO_DIRECT, lambda: self.all_paths("direct"))
        direct = max(end.paths[-1]["at"] for end in self.ends)
        measured["direct after a move"] = max(0, direct - there)
        self.last_lines(initiator, receiver)
        result.connected = result.direct = True

    def go_on(self, since):
        """Whether lines come both ways again."""
        return all(came and came[-1] > since + 0.5 for came in self.came.values())

    def use(self, uplink, families):
        for version in FAMILIES[families]:
            self.lab.ip("a", self.lab.uplinks[uplink][version])

    def change(self):
        """Returns for how long there is no net at all."""
        lab = self.lab
        if " to " in self.case:
            lab.leave()
            self.use("spare", self.case.split(" to ")[1])
        elif self.case == "new address":
            lab.ip("a", ["addr del 192.168.1.2/24 dev net", "addr add 192.168.1.3/24 dev net"])
            lab.ip("a", ["route replace default via 192.168.1.1"])
        elif self.case == "two uplinks":
            # The new one first; what is under way stays with the old one until that is gone.
            commands = [c for c in lab.uplinks["spare"][4] if "addr" in c]
            lab.ip("a", commands + ["route replace default via 192.168.2.1"])
            self.stay()
            lab.ip("a", ["addr del 192.168.1.2/24 dev net"])
        elif self.case == "down and up":
            began = time.monotonic()
            lab.ip("a", ["link set net down"])
            self.stream("down", 2 * DOWN, lambda: time.monotonic() > began + DOWN)
            lab.ip("a", ["link set net up"])
            # What the host has lost with the link.
            routes = [c for c in lab.uplinks["a"][4] if c.startswith("route")]
            lab.ip("a", [c.replace("add", "replace") for c in routes])
            return time.monotonic() - began
        elif self.case == "new outer address":
            lab.ip("a-nat", ["addr del 61.0.0.2/24 dev wan", "addr add 61.0.0.9/24 dev wan"])
            lab.ip("a-nat", ["route replace default via 61.0.0.1"])
            lab.forget()
        elif self.case == "NAT reboots":
            lab.forget()
        else:
            raise Failed(f"no such case: {self.case}")
        return 0
