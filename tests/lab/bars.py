"""The bars: what share of attempts must be direct, cell by cell, and how fast."""

from dataclasses import dataclass

# Easy for each other, whichever two meet.
EASY = {"N0", "N1", "N2", "N3", "N3b", "N7", "N8", "N9"}
SEQUENTIAL = {"N4", "N4d2", "N4s"}


@dataclass(frozen=True)
class Bar:
    name: str
    # Of a hundred attempts at least so many are direct; `None`: the relay serves.
    direct: int | None
    # Seconds to the direct path: the median, and 99 of 100. The lab's round trip is no time at all.
    median: float | None = None
    p99: float | None = None
    # Seconds to the first byte.
    first_byte: float | None = None


P01 = Bar("P01", 100, median=0.2, p99=2)
P02_CONE = Bar("P02", 100)
P02_RESTRICTED = Bar("P02", 98, p99=3)
P03 = Bar("P03", 95)
P03_SHARED = Bar("P03", 80)
P04 = Bar("P04", None, first_byte=0.1)
P05 = Bar("P05", 98, p99=3)
P05_REFUSED = Bar("P05", 90, p99=3)


def bar(pair, protocol):
    """The bar of a pair of kinds, or `None` where there is none."""
    kinds = set(pair)
    if protocol == "tcp":
        if kinds <= {"N0", "N1", "N2", "N3"}:
            return P05
        return P05_REFUSED if kinds <= {"N0", "N1", "N2", "N3", "N3b"} else None
    if "N6" in kinds or kinds == {"N5"}:
        return P04
    if kinds <= EASY:
        return P01
    if "N5" in kinds:
        if kinds & {"N0", "N1", "N2"}:
            return P02_CONE
        return P02_RESTRICTED if kinds & {"N3", "N3b"} else None
    if kinds <= SEQUENTIAL | {"N3"}:
        return P03_SHARED if "N4s" in kinds else P03
    return None


def may_be_direct(pair, protocol):
    """Whether waiting for a direct path makes sense."""
    found = bar(pair, protocol)
    return found is None or found.direct is not None
