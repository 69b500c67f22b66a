"""What the attempts amount to: lines to read, and the tables of `docs/punching.md`."""

from statistics import median

from bars import bar
from kinds import KINDS

BARS = {
    "P01": "easy kinds with each other: all direct, median within 0.2 s, 99 of 100 within 2 s",
    "P02": "N5 with N0, N1, N2: all direct; with N3, N3b: 98 of 100, within 3 s",
    "P03": "N4 with N3, N4: 95 of 100 direct; shared (N4s): 80",
    "P04": "N5 with N5, N6 with any: the relay, first byte within 0.1 s of pairing",
    "P05": "TCP among N0 to N3: 98 of 100 direct within 3 s; with N3b: 90",
    "P06": "the first byte within 0.1 s of pairing, on any pair",
    "P12": "with loss every attempt connects",
}

NOT_MEASURED = "not measured"

# What a session whose path moves is measured by, and the bars P07 and P08, in seconds.
MOVES = {
    "gap while direct came": 0.05,
    "gap while nothing moved": 0.05,
    "relayed after": 1,
    "gap while direct died": 1,
    "direct again after": 10,
    "gap while it came back": 0.05,
    "gap after a move": 2,
    "direct after a move": 10,
}


def cells(results):
    """Results by protocol and pair."""
    found = {}
    for result in results:
        if result.moves is None:
            pair = tuple(result.pair.split("x"))
            found.setdefault((result.protocol, pair), []).append(result)
    return found


def share(count, of):
    """Whole percent, rounded down: 99.6 is not all."""
    return 100 * count // of


def percentile(values, percent):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def missed(pair, protocol, attempts, loss):
    """The bar that a cell misses, and why; `None` when it misses none."""
    wanted = bar(pair, protocol)
    connected = sum(attempt.connected for attempt in attempts)
    if connected < len(attempts):
        return ("P12" if loss else wanted.name if wanted else ""), (
            f"{connected} of {len(attempts)} connected"
        )
    # The others are for links that lose nothing.
    if not wanted or loss:
        return None
    direct = [attempt for attempt in attempts if attempt.direct]
    if wanted.direct is None:
        if direct:
            return wanted.name, f"{len(direct)} of {len(attempts)} direct"
    elif share(len(direct), len(attempts)) < wanted.direct:
        return wanted.name, f"{len(direct)} of {len(attempts)} direct"
    times = [attempt.to_direct for attempt in direct]
    first = [attempt.first_byte for attempt in attempts]
    for name, values, percent, most in (
        ("median to direct", times, 50, wanted.median),
        ("99 of 100 to direct", times, 99, wanted.p99),
        ("first byte, 99 of 100", first, 99, wanted.first_byte),
    ):
        if most and values and percentile(values, percent) > most:
            return wanted.name, f"{name} {percentile(values, percent):.2f} s, not {most} s"
    return None


def words(attempts):
    """A cell of the table."""
    connected = [attempt for attempt in attempts if attempt.connected]
    direct = [attempt.to_direct for attempt in connected if attempt.direct]
    failed = f", **{len(attempts) - len(connected)} failed**" * (len(connected) < len(attempts))
    if not direct:
        return "relayed" * bool(connected) + failed
    percent = share(len(direct), len(attempts))
    return f"{percent} %, {median(direct):.2f} s{failed}"


def summary(results):
    lines = []
    for (protocol, pair), attempts in sorted(cells(results).items()):
        found = missed(pair, protocol, attempts, attempts[0].loss)
        first = [attempt.first_byte for attempt in attempts if attempt.first_byte]
        line = f"{'x'.join(pair):10} {protocol}  {words(attempts):24}"
        if first:
            line += f" first byte {median(first):.3f} s, worst {max(first):.3f} s"
        if found:
            line += f"  MISSED {found[0]}: {found[1]}"
        lines.append(line)
    return "\n".join(lines + moves(results))


def moves(results):
    """Markdown: how the sessions fared whose path was cut and healed, or whose host moved."""
    found = {}
    for result in results:
        if result.moves is not None:
            name = f"{result.pair}, {result.case}" if result.case else result.pair
            found.setdefault(name, []).append(result)
    if not found:
        return []
    names = [name for name in MOVES if any(name in r.moves for rs in found.values() for r in rs)]
    text = [
        "| pair | whole and in order | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
        "| bar | all | " + " | ".join(f"{MOVES[name]} s" for name in names) + " |",
    ]
    for pair, attempts in found.items():
        line = [pair, f"{sum(a.connected for a in attempts)} of {len(attempts)}"]
        for name in names:
            worst = max((a.moves[name] for a in attempts if name in a.moves), default=None)
            if worst is None:
                line.append("")
            else:
                bold = "**" * (worst > MOVES[name])
                line.append(f"{bold}{worst:.3f} s{bold}")
        text.append("| " + " | ".join(line) + " |")
    return text


def tables(results, loss, delay):
    """Markdown: what was measured, and what misses its bar."""
    found = cells(results)
    text = []
    for protocol in ("udp", "tcp"):
        kinds = [
            name
            for name in KINDS
            if any(protocol == of and name in pair for of, pair in found)
        ]
        if not kinds:
            continue
        runs = {len(attempts) for (of, _), attempts in found.items() if of == protocol}
        text += [f"**{protocol.upper()}**, attempts of each pair: {spread(runs)}", ""]
        text += ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
        for row in kinds:
            line = [row]
            for column in kinds:
                attempts = found.get((protocol, (row, column)))
                line.append(words(attempts) if attempts else "")
            text.append("| " + " | ".join(line) + " |")
        text.append("")
    misses = [
        (pair, protocol, *why)
        for (protocol, pair), attempts in sorted(found.items())
        if (why := missed(pair, protocol, attempts, loss))
    ]
    text += bars(found, misses, loss, delay)
    commits = sorted({result.commit for result in results if result.commit})
    if commits:
        text += ["", f"Sources: {', '.join(commits)}"]
    return "\n".join(text)


def first_bytes(found):
    """How soon the first byte was there, in words by protocol, and the worst 99th of 100."""
    parts, worst = [], 0
    for protocol in ("udp", "tcp"):
        first = [
            attempt.first_byte
            for (of, _), attempts in found.items()
            for attempt in attempts
            if of == protocol and attempt.first_byte
        ]
        if first:
            most = percentile(first, 99)
            worst = max(worst, most)
            parts.append(f"{protocol} median {median(first):.3f} s, 99 of 100 within {most:.3f} s")
    return "; ".join(parts), worst


def bars(found, misses, loss, delay):
    text = ["| bar | is | reached |", "|---|---|---|"]
    for name, what in BARS.items():
        if (name == "P12") != bool(loss):
            continue
        # At a distance only those are measured that say nothing of round trips.
        if delay and name != "P05":
            continue
        if name == "P06":
            times, worst = first_bytes(found)
            reached = f"{'yes' if worst <= 0.1 else '**no**'}: {times}" if times else NOT_MEASURED
        else:
            of = [
                (pair, protocol)
                for protocol, pair in found
                if name == "P12" or (bar(pair, protocol) and bar(pair, protocol).name == name)
            ]
            cells_missed = [f"{'x'.join(m[0])} {m[1]}: {m[3]}" for m in misses if m[2] == name]
            reached = f"in {len(of) - len(cells_missed)} of {len(of)} cells"
            if cells_missed:
                reached = f"**{reached}**; {'; '.join(cells_missed)}"
        text.append(f"| {name} | {what} | {reached} |")
    if loss:
        text.append(f"| | the first byte after pairing | {first_bytes(found)[0] or NOT_MEASURED} |")
    rest = [f"{'x'.join(m[0])} {m[1]}: {m[3]}" for m in misses if not m[2]]
    if rest:
        text += ["", f"Without a bar, but not connected: {'; '.join(rest)}"]
    return text


def spread(counts):
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def write(path, results, name):
    """Replaces what stands between the markers of this name."""
    with open(path) as file:
        text = file.read()
    begin, end = f"<!-- measured, {name}: begin -->", f"<!-- measured, {name}: end -->"
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    moved = moves(results)
    table = "\n".join(moved) if moved else tables(results, results[0].loss, results[0].delay)
    with open(path, "w") as file:
        file.write(f"{before}{begin}\n{table}\n{end}{after}")
