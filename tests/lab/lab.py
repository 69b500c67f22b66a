"""Two hosts, each behind a NAT of a kind, and a public server, in network namespaces.

                      server 60.0.0.1, 60.0.0.2
                                  |
    a --- [NAT] --- west ------ middle ------ east --- [NAT] --- b
         61.0.0.2                                     62.0.0.2

Three routers between the NATs, so that a packet with a low TTL has a hop to die on. Both hosts are
192.168.1.2 behind their NAT, as in two homes with the same router: an address from inside must
never be mistaken for one outside. IPv6 is there when a kind speaks only that; the other host then
has it too, next to its own kind of IPv4 and behind a firewall of the same sort, or no path between
the two could exist.

The addresses are ordinary public ones, which the server relays to as it stands; no packet leaves
the namespaces, which no device connects to the machine.
"""

import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

from kinds import PORT_MAPPER

SERVER, SERVER_2 = "60.0.0.1", "60.0.0.2"
SERVER_6, SERVER_6_2 = "2600:60::1", "2600:60::2"
# A name for both.
HOST = "server.lab"
INSIDE = "192.168.1.2"
SIDES = {"a": 61, "b": 62}
# Behind which `a` has a second uplink.
SPARE = 63
# What turnserver listens on for pairing, and answers STUN on.
PORT = 8080

# Seconds.
LONGEST_COMMAND = 60

ENTERED = "TURNSERVER_LAB"


def enter():
    """Runs the calling script again in namespaces of its own: network, mounts, processes.

    All that is made there ends with this process, however it ends, and two runs never meet. Whoever
    is not root becomes it there.
    """
    if os.environ.get(ENTERED):
        # The names of namespaces: a directory that only this process and its children see.
        sh("mount -t tmpfs lab /run")
        with open("/run/hosts", "w") as file:
            file.write(f"127.0.0.1 localhost\n{SERVER} {HOST}\n{SERVER_6} {HOST}\n")
        sh("mount --bind /run/hosts /etc/hosts")
        return
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    child = subprocess.Popen(
        command + [sys.executable] + sys.argv,
        env=os.environ | {ENTERED: "1", "PATH": path},
        preexec_fn=die_with_parent,
    )
    while True:
        try:
            sys.exit(child.wait())
        except KeyboardInterrupt:
            pass  # The terminal has told the child too.


def die_with_parent():
    """PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def sh(command, **options):
    """Runs a command; its output is shown when it fails."""
    done = subprocess.run(
        command.split(), capture_output=True, text=True, timeout=LONGEST_COMMAND, **options
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def listens(process, protocol, port):
    """Waits until a port is open in a program's namespace; false when it never is."""
    for _ in range(200):
        try:
            with open(f"/proc/{process.pid}/net/{protocol}") as table:
                if any(f":{port:04X} 00000000:0000 " in line for line in table):
                    return True
        except OSError:
            pass  # It has ended.
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return False


CONFIG = """
realm = "example.org"
[auth]
secrets = ["a secret of this run alone"]
[log]
level = "warn"
[signaling]
# All come from two addresses.
joins_per_minute = 0
"""

# Packets that are lost in a row, on average, when loss comes in bursts; and how long a burst lasts
# at most, also where nothing is sent: links fade for a while, they do not wait for packets.
BURST = 5
BURST_MS = 500

# Each packet is lost with the same chance, whatever was lost before.
LOSS = """
add table inet loss
add chain inet loss through {{ type filter hook forward priority filter; }}
add rule inet loss through numgen random mod {most} < {begin} drop
"""

# Gilbert's model: a way is good or bad, for each link that packets come from; a bad one loses all,
# and gets good again with the same chance at each packet. (What leaves a set of nftables so keeps
# its place in it, so it is a large one.)
BURSTS = """
add table inet loss
add set inet loss bad {{ type ifname; flags dynamic,timeout; timeout {longest}ms; size 65535; }}
add chain inet loss through {{ type filter hook forward priority filter; }}
add rule inet loss through iifname @bad numgen random mod {most} < {end} delete @bad {{ iifname }} accept
add rule inet loss through iifname @bad drop
add rule inet loss through numgen random mod {most} < {begin} add @bad {{ iifname }} drop
"""

CUT = """
add table inet cut
add chain inet cut through { type filter hook forward priority filter; }
add rule inet cut through iifname west oifname east drop
add rule inet cut through iifname east oifname west drop
"""


class Connections:
    """What the kernel of a namespace remembers of connections, by ctnetlink."""

    NETFILTER, CONNTRACK_DELETE, REQUEST, ACK = 12, 1 << 8 | 2, 1, 4
    NET = 0x40000000

    def __init__(self, namespace):
        libc = ctypes.CDLL(None)
        # A socket belongs to the namespace in which it was made. Only this thread moves there.
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
            assert libc.setns(there.fileno(), self.NET) == 0
            try:
                self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self.NETFILTER)
            finally:
                assert libc.setns(home.fileno(), self.NET) == 0
        self.socket.settimeout(5)

    def flush(self):
        """Removes all: a request that names none means that."""
        flags = self.REQUEST | self.ACK
        self.socket.send(struct.pack("=IHHIIBBH", 20, self.CONNTRACK_DELETE, flags, 1, 0, 0, 0, 0))
        error = struct.unpack_from("=i", self.socket.recv(4096), 16)[0]
        if error:
            raise OSError(-error, "conntrack is not flushed")

    def close(self):
        self.socket.close()


class Lab:
    """The namespaces of one pair of kinds; gone on exit."""

    made = itertools.count(1)

    def __init__(self, kind_a, kind_b, loss=0, bursts=False, spare=False):
        self.tag = f"lab{next(Lab.made)}"
        self.kinds = {"a": kind_a, "b": kind_b}
        self.loss = loss
        self.bursts = bursts
        # A second uplink that `a` can move to.
        self.spare = spare
        self.ipv6 = kind_a.ipv6_only or kind_b.ipv6_only or spare
        self.uplinks = {}
        # Namespace: what `ip` shall do there, and its nftables rules.
        self.plan = {}
        self.links = []
        self.started = []
        # For files, which go with the lab.
        self.directory = f"/run/{self.tag}"
        self.tables = []

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.started[:]:
            self.end(process)
        for table in self.tables:
            table.close()
        # A namespace whose last process has ended is gone with its name.
        gone = "".join(f"netns del {self.tag}{name}\n" for name in self.plan)
        subprocess.run(["ip", "-force", "-batch", "-"], input=gone.encode(), capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, where, command, **options):
        """Starts a program in `a`, `b`, `server` or a router; it is killed on exit at the latest."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"{self.tag}{where}"] + command,
            start_new_session=True,
            **options,
        )
        self.started.append(process)
        return process

    def serve(self, binaries, discovery=False):
        """Starts the `turnserver` of a directory and waits until it listens; with `discovery` it
        uses both of its addresses, as RFC 5780 has it."""
        config, log = f"{self.directory}/stunner.toml", f"{self.directory}/log"
        with open(config, "w") as file:
            file.write(CONFIG)
            if discovery:
                addresses = [SERVER, SERVER_2] + [SERVER_6, SERVER_6_2] * self.ipv6
                file.write(f"[relay]\naddress = {json.dumps(addresses)}\n")
        with open(log, "w") as file:
            command = [os.path.join(binaries, "turnserver"), "--config", config]
            server = self.start("server", command, stdout=file, stderr=file)
        if not listens(server, "tcp", PORT):
            raise RuntimeError(f"turnserver does not listen: {open(log).read()}")
        return server

    def end(self, process):
        """Ends a program and forgets it."""
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # It has not read all.
        self.started.remove(process)

    def ip(self, where, commands):
        """Has `ip` do these there."""
        script = "".join(f"{command}\n" for command in commands)
        sh(f"ip -n {self.tag}{where} -batch -", input=script)

    def leave(self):
        """Host `a` has neither an address nor a route any more."""
        self.ip("a", [f"addr flush dev {device} scope global" for device in ("net", "net2")])
        sh(f"ip -n {self.tag}a route flush table main")
        sh(f"ip -n {self.tag}a -6 route flush default")

    def forget(self):
        """The NATs know no connection any more, as if they had just been switched on."""
        for table in self.tables:
            table.flush()
        for side, kind in self.kinds.items():
            if kind.opens:
                nft = f"ip netns exec {self.tag}{side}-nat nft -f -"
                sh(nft, input=f"flush set inet nat {kind.opens}")

    def cut(self):
        """Nothing passes between the two sides any more, but for what goes by way of the server."""
        sh(f"ip netns exec {self.tag}middle nft -f -", input=CUT)

    def heal(self):
        """Undoes a cut, if there is one."""
        undo = "add table inet cut\ndelete table inet cut\n"
        sh(f"ip netns exec {self.tag}middle nft -f -", input=undo)

    def build(self):
        for name in ("server", "west", "middle", "east"):
            self.plan[name] = ([], "")
        self.link("server", "net", "middle", "server")
        self.link("west", "middle", "middle", "west")
        self.link("east", "middle", "middle", "east")
        self.address("server", "net", f"{SERVER}/24", f"{SERVER_6}/64")
        self.address("server", "net", f"{SERVER_2}/24", f"{SERVER_6_2}/64")
        self.route("server", "default", "60.0.0.254", "2600:60::fe")
        self.address("middle", "server", "60.0.0.254/24", "2600:60::fe/64")
        if self.spare:
            self.reach("west", "near2", SPARE)
            self.uplinks["spare"] = self.uplink("a", "net2", "west", "near2", SPARE)
        for side, router in (("a", "west"), ("b", "east")):
            net = SIDES[side]
            self.address(router, "middle", f"60.{net}.0.1/24", f"2600:60:{net}::1/64")
            self.address("middle", router, f"60.{net}.0.2/24", f"2600:60:{net}::2/64")
            self.reach(router, "near", net)
            self.route(router, "default", f"60.{net}.0.2", f"2600:60:{net}::2")
            self.plan[side] = ([], "")
            self.uplinks[side] = self.uplink(side, "net", router, "near", net)
            for commands in self.uplinks[side].values():
                self.plan[side][0].extend(commands)
        # What has no way is swallowed without an error, as far out in the Internet.
        self.plan["middle"][0].append("route add blackhole default")
        if self.loss:
            self.plan["middle"] = (self.plan["middle"][0], self.losing())
        self.make()

    def reach(self, router, near, net):
        """A network behind a router, as the Internet knows it."""
        via = {"west": SIDES["a"], "east": SIDES["b"]}[router]
        self.address(router, near, f"{net}.0.0.1/24", f"2600:{net}::1/64")
        self.route("middle", f"{net}.0.0.0/24", f"60.{via}.0.1", None)
        self.route("middle", None, None, f"2600:60:{via}::1", f"2600:{net}::/32")

    def losing(self):
        """The rules that lose so many percent."""
        most, share = 10**6, self.loss / 100
        if not self.bursts:
            return LOSS.format(most=most, begin=int(share * most))
        # A burst, then packets that pass until the next one: of all of them `share` are lost.
        begin = share / (1 - share) / BURST
        ends = {"end": int(most / BURST), "longest": BURST_MS}
        return BURSTS.format(most=most, begin=int(begin * most), **ends)

    def uplink(self, side, device, router, near, net):
        """A host's way into the net: the NATs between it and its router. Returns what the host has
        to do to use it, by IP version."""
        kind = self.kinds[side]
        spare = device != "net"
        host = {4: [], 6: []}

        def use(address, via, address_6, via_6):
            if address:
                host[4] += [f"addr add {address} dev {device}", f"route add default via {via}"]
            if self.ipv6:
                host[6] += [
                    f"addr add {address_6} dev {device} nodad",
                    f"route add ::/0 via {via_6}",
                ]

        if kind.nats == 0:
            self.link(side, device, router, near)
            use(f"{net}.0.0.2/24", f"{net}.0.0.1", f"2600:{net}::2/64", f"2600:{net}::1")
            return host
        # Each box: its name, its address inside and outside, and the next one's address.
        lan = "192.168.2" if spare else "192.168.1"
        name = f"{side}-spare" if spare else f"{side}-nat"
        inside, outside = f"{lan}.1/24", f"{net}.0.0.2/24"
        boxes = [(name, inside, outside, f"{net}.0.0.1", f"{lan}.2")]
        if kind.nats == 2:
            boxes = [
                (name, inside, "100.64.0.2/24", "100.64.0.1", f"{lan}.2"),
                (f"{name}-carrier", "100.64.0.1/24", outside, f"{net}.0.0.1", "100.64.0.2"),
            ]
        low = (side, device)
        for name, lan_side, wan, via, behind in boxes:
            self.plan[name] = ([], kind.rules(behind, wan.split("/")[0]))
            self.link(*low, name, "lan")
            low = (name, "wan")
            if not kind.ipv6_only:
                self.address(name, "lan", lan_side, None)
                self.address(name, "wan", wan, None)
                self.route(name, "default", via, None)
        self.link(*low, router, near)
        # IPv6 is routed through all of them; a second box is a hop more.
        hops = [side] + [box[0] for box in boxes]
        for i, (low, high) in enumerate(zip(hops, hops[1:]), start=1):
            # Each link is numbered from the host outwards.
            if low != side:
                self.address(low, "wan", None, f"2600:{net}:{i}::2/64")
                self.route(low, None, None, f"2600:{net}:{i}::1")
            self.address(high, "lan", None, f"2600:{net}:{i}::1/64")
            for below in range(1, i):
                self.route(high, None, None, f"2600:{net}:{i}::2", f"2600:{net}:{below}::/64")
        last = hops[-1]
        self.address(last, "wan", None, f"2600:{net}::2/64")
        self.route(last, None, None, f"2600:{net}::1")
        self.route(router, None, None, f"2600:{net}::2", f"2600:{net}::/32")
        address = None if kind.ipv6_only else f"{lan}.2/24"
        use(address, f"{lan}.1", f"2600:{net}:1::2/64", f"2600:{net}:1::1")
        return host

    def link(self, near, near_device, far, far_device):
        self.links.append((near, near_device, far, far_device))

    def address(self, where, device, ipv4, ipv6):
        commands = self.plan[where][0]
        if ipv4:
            commands.append(f"addr add {ipv4} dev {device}")
        if ipv6 and self.ipv6:
            commands.append(f"addr add {ipv6} dev {device} nodad")

    def route(self, where, to, via, via_6, to_6="::/0"):
        commands = self.plan[where][0]
        if via:
            commands.append(f"route add {to} via {via}")
        if via_6 and self.ipv6:
            commands.append(f"route add {to_6} via {via_6}")

    def make(self):
        """Carries the plan out."""
        tag = self.tag
        os.makedirs(self.directory)
        sh("ip -batch -", input="".join(f"netns add {tag}{name}\n" for name in self.plan))
        if self.ipv6:
            # An address serves at once, not only when nobody has claimed it for a second.
            for name in self.plan:
                path = "/proc/sys/net/ipv6/conf/default/dad_transmits"
                sh(f"ip netns exec {tag}{name} sh", input=f"echo 0 >{path}")
        sh(
            "ip -batch -",
            input="".join(
                f"link add name {near_device} netns {tag}{near} type veth"
                f" peer name {far_device} netns {tag}{far}\n"
                for near, near_device, far, far_device in self.links
            ),
        )
        for name, (commands, rules) in self.plan.items():
            devices = ["lo"]
            for near, near_device, far, far_device in self.links:
                devices += [near_device] * (near == name) + [far_device] * (far == name)
            up = [f"link set {device} up" for device in devices]
            # Addresses first: a route needs its next hop on a link. What leads only within one's
            # own network comes before what needs it.
            script = "\n".join(
                ["set -e", "cd /proc/sys/net"]
                # What is turned back to its own network is so on purpose.
                + [
                    "echo 1 >ipv4/ip_forward",
                    "echo 1 >ipv6/conf/all/forwarding",
                    "for all in ipv4/conf/*/send_redirects; do echo 0 >$all; done",
                ]
                * (name not in ("a", "b", "server"))
                + ["ip -batch - <<end"]
                + sorted(up + commands, key=lambda line: "route" in line)
                + ["end", "nft -f - <<end", rules, "end"]
            )
            sh(f"ip netns exec {tag}{name} sh", input=script)
        boxes = [name for name in self.plan if "-" in name]
        self.tables = [Connections(f"{tag}{box}") for box in boxes]
        for side, kind in self.kinds.items():
            if kind.port_mapper:
                self.map_ports(f"{side}-nat")
        if self.ipv6:
            self.await_neighbours()

    def map_ports(self, box):
        """Starts the port mapper of a router."""
        config = f"{self.directory}/{box}.conf"
        with open(config, "w") as file:
            file.write(PORT_MAPPER)
        command = ["miniupnpd", "-d", "-f", config, "-P", f"{config}.pid"]
        mapper = self.start(box, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not listens(mapper, "udp", 5351):
            raise RuntimeError("miniupnpd does not listen")

    def await_neighbours(self):
        """A device asks for its neighbours when it has an address of the link, some time later."""
        for _ in range(100):
            ready = 0
            for name in self.plan:
                shown = sh(f"ip -n {self.tag}{name} -o -6 addr show scope link -tentative")
                ready += len(shown.splitlines())
            if ready == 2 * len(self.links):
                return
            time.sleep(0.05)
        raise RuntimeError("IPv6 does not start")
