"""The kinds of NAT that stand between a host and the Internet, as rules of nftables.

The kernel's own NAT keeps a source port when it can and lets in what belongs to a connection only.
The other kinds are made from it by sets of open ports and by the choice of the port.
"""

import random
from dataclasses import dataclass

# Behaviour in the words of RFC 4787 and RFC 5780. AD is address dependent.
INDEPENDENT = "independent"
ADDRESS = "address"
ADDRESS_AND_PORT = "address and port"
BLOCKED = "blocked"

# How many mappings a sequential NAT makes before it starts again with the first port.
SEQUENCE = 8192


@dataclass(frozen=True)
class Kind:
    """One kind. Behaviour is for UDP; for TCP it is the same, but that no kind blocks TCP."""

    name: str
    words: str
    mapping: str = INDEPENDENT
    filtering: str = ADDRESS_AND_PORT
    # Mapped ports of a sequential NAT differ by so much.
    delta: int = 0
    # The share of its ports that others behind the same NAT take in between.
    taken: float = 0
    # What reaches the outer address and belongs to no connection is dropped in silence. Otherwise
    # the router answers as a host without such a port does, and its connection tracking remembers.
    drops_strays: bool = True
    nats: int = 1
    ipv6_only: bool = False
    port_mapper: bool = False
    # Hosts behind it reach each other by their outer addresses.
    hairpin: bool = False

    @property
    def opens(self):
        """The set of what it lets in."""
        return {INDEPENDENT: "open", ADDRESS: "open_to"}.get(self.filtering if self.nats else None)

    def rules(self, inside, outside):
        """The rule set of a router: `inside` is the host's address for it, `outside` its own."""
        ipv4 = "meta nfproto ipv4 meta l4proto { tcp, udp }"
        egress, dnat, snat = "", "", "masquerade"
        if self.filtering == INDEPENDENT:
            egress = f"{ipv4} update @open {{ meta l4proto . th sport }}"
            dnat = f"{ipv4} meta l4proto . th dport @open dnat ip to {inside}"
        elif self.filtering == ADDRESS:
            egress = f"{ipv4} update @open_to {{ ip daddr . meta l4proto . th sport }}"
            dnat = f"{ipv4} ip saddr . meta l4proto . th dport @open_to dnat ip to {inside}"
        elif self.filtering == BLOCKED:
            egress = "meta l4proto udp drop"
        if self.delta:
            ports = (20000 + i * self.delta for i in range(SEQUENCE))
            free = [port for port in ports if random.random() >= self.taken]
            in_turn = ", ".join(f"{i}: {port}" for i, port in enumerate(free))
            to = f"numgen inc mod {len(free)} map {{ {in_turn} }}"
            # Each protocol counts by itself.
            snat = f"meta l4proto udp masquerade to :{to}; meta l4proto tcp masquerade to :{to}"
        elif self.mapping == ADDRESS_AND_PORT:
            snat = "masquerade fully-random"
        back_in, back_out = "", ""
        if self.hairpin:
            back_in = f'iifname "lan" ip daddr {outside} jump inwards;'
            back_out = f'oifname "lan" ip saddr {inside} snat ip to {outside}'
        mapper = ("jump mapped", "jump mapped_in") if self.port_mapper else ("", "")
        return RULES.format(
            back_in=back_in,
            back_out=back_out,
            mapped=mapper[0],
            mapped_in=mapper[1],
            egress=egress,
            dnat=dnat,
            snat=snat,
            strays='iifname "wan" meta l4proto { tcp, udp } drop;' if self.drops_strays else "",
        )


# A stray must be dropped before the kernel remembers its connection: a remembered one holds the
# port, the host's own packet to that peer then leaves from another, and no hole is ever punched.
RULES = """
table inet nat {{
  set open {{ type inet_proto . inet_service; flags dynamic,timeout; timeout 120s; }}
  set open_to {{ type ipv4_addr . inet_proto . inet_service; flags dynamic,timeout; timeout 120s; }}
  chain arriving {{ type nat hook prerouting priority dstnat; iifname "wan" jump inwards; {back_in} }}
  chain inwards {{ {mapped_in}; {dnat}; }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    oifname "wan" meta nfproto ipv4 jump outwards
    {back_out}
  }}
  chain outwards {{ {snat}; masquerade; }}
  chain own {{
    type filter hook input priority filter;
    iifname "wan" ct state established,related accept
    {strays}
  }}
  chain through {{
    type filter hook forward priority filter; policy drop;
    {mapped}
    iifname "lan" jump egress
    iifname "lan" accept
    ct state established,related accept
    ct status dnat accept
  }}
  chain egress {{ {egress}; }}
  chain mapped {{ }}
  chain mapped_in {{ }}
  chain mapped_out {{ }}
}}
"""

# For miniupnpd, which speaks PCP, NAT-PMP and UPnP and writes the rules of its mappings into the
# last three chains.
PORT_MAPPER = """
ext_ifname=wan
listening_ip=lan
http_port=5000
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
uuid=5a5c28a5-e4c1-4d6c-9a0e-0d6b7f3a1c55
upnp_table_name=nat
upnp_nat_table_name=nat
upnp_forward_chain=mapped
upnp_nat_chain=mapped_in
upnp_nat_postrouting_chain=mapped_out
allow 1024-65535 0.0.0.0/0 1024-65535
"""

KINDS = {
    kind.name: kind
    for kind in (
        Kind("N0", "public address, no NAT", filtering=INDEPENDENT, nats=0),
        Kind("N1", "full cone", filtering=INDEPENDENT, hairpin=True),
        Kind("N2", "address-restricted", filtering=ADDRESS),
        Kind("N3", "port-restricted, keeps the port"),
        Kind("N3b", "as N3, but answers strays", drops_strays=False),
        Kind("N4", "symmetric, next port is +1", mapping=ADDRESS_AND_PORT, delta=1),
        Kind("N4d2", "symmetric, next port is +2", mapping=ADDRESS_AND_PORT, delta=2),
        Kind("N4s", "as N4, shared: others take 10 %", mapping=ADDRESS_AND_PORT, delta=1, taken=0.1),
        Kind("N5", "symmetric, random port", mapping=ADDRESS_AND_PORT),
        Kind("N6", "UDP is blocked", filtering=BLOCKED),
        Kind("N7", "N3 behind N3", nats=2),
        Kind("N8", "IPv6 only, stateful firewall", ipv6_only=True),
        Kind("N9", "as N5, but maps ports on request", mapping=ADDRESS_AND_PORT, port_mapper=True),
    )
}


def every_kind():
    """Pairs that have every kind. With one that speaks only IPv6 the other would be measured by
    that."""
    names = [name for name, kind in KINDS.items() if not kind.ipv6_only]
    pairs = list(zip(names[::2], names[1::2] + names[:1]))
    return pairs + [(name, name) for name, kind in KINDS.items() if kind.ipv6_only]
