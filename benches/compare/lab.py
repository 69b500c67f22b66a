"""Two network namespaces with two veth links between them: one for clients, one for peers.

Clients and peers live in one namespace, so that one process can be both and share a clock; all
they send crosses a link to the server's namespace and comes back over one.
"""

import ctypes
import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
import time

# Clients reach the server here.
SERVER = "10.201.1.2"
# The server relays from here to the peers.
RELAY = "10.201.2.2"
PEER = "10.201.2.1"
# Each client has an address of its own from this network.
CLIENTS = "10.208.0.0/12"

# A session is scheduled as a group, within which alone the niceness of its processes counts.
AUTOGROUP = 'echo "$1" 2>/dev/null >/proc/self/autogroup; shift; exec "$@"'


def sh(command, **options):
    """Runs a command; its output is shown when it fails."""
    done = subprocess.run(command.split(), capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


class Lab:
    """The namespaces; gone on exit."""

    def __init__(self, generator_core, server_core, nice):
        tag = f"tb{os.getpid() % 100000}"
        self.near, self.far = f"{tag}g", f"{tag}s"
        # A device's name has 15 bytes at most, and that of its thread shows 15 of it.
        self.links = {kind: (f"{tag}{kind}0", f"{tag}{kind}1") for kind in "cp"}
        self.cores = {self.near: generator_core, self.far: server_core}
        self.nice = nice
        self.threads = {}

    def __enter__(self):
        # 10,000 allocations are as many sockets.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def build(self):
        for name in (self.near, self.far):
            sh(f"ip netns add {name}")
            sh(f"ip -n {name} link set lo up")
        for kind, subnet in (("c", "10.201.1"), ("p", "10.201.2")):
            near, far = self.links[kind]
            sh(f"ip link add {near} netns {self.near} type veth peer name {far} netns {self.far}")
            for name, device, host in ((self.near, near, 1), (self.far, far, 2)):
                sh(f"ip -n {name} addr add {subnet}.{host}/24 dev {device}")
                # A link holds 256 packets; while its receiving thread waits for its core, the
                # others wait here, as they would in front of a network card.
                sh(f"tc -n {name} qdisc add dev {device} root pfifo limit 10000")
                sh(f"ip -n {name} link set {device} up")
        sh(f"ip -n {self.near} route add local {CLIENTS} dev lo")
        sh(f"ip -n {self.far} route add {CLIENTS} via 10.201.1.1")
        for name in (self.near, self.far):
            script = os.path.abspath(__file__)
            sh(f"ip netns exec {name} {sys.executable} {script} inside")
        time.sleep(0.3)
        for name, end in ((self.near, 0), (self.far, 1)):
            devices = [ends[end] for ends in self.links.values()]
            self.threads[name] = [pid for device in devices for pid in napi_threads(device)]
            for pid in self.threads[name]:
                os.sched_setaffinity(pid, {self.cores[name]})
                os.setpriority(os.PRIO_PROCESS, pid, self.nice)
            if len(self.threads[name]) != len(devices):
                raise RuntimeError("no threaded NAPI on veth: the kernel is older than 5.12")

    def start(self, name, command, **options):
        """Starts a program in a namespace, on its core, above the other work of the machine."""
        prefix = ["ip", "netns", "exec", name, "taskset", "-c", str(self.cores[name])]
        prefix += ["nice", "-n", str(self.nice), "sh", "-c", AUTOGROUP, "sh", str(self.nice)]
        options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
        return subprocess.Popen(prefix + command, **options)

    def busy(self, name, pid):
        """Nanoseconds that a process and the receive threads of its links have run."""
        tasks = [f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
        tasks += [f"/proc/{thread}" for thread in self.threads[name]]
        return sum(int(open(f"{task}/schedstat").read().split()[0]) for task in tasks)


def napi_threads(device):
    """The kernel threads that receive for a device."""
    wanted = f"napi/{device}-"[:15]
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read().strip().startswith(wanted):
                found.append(int(pid))
        except OSError:
            pass  # It has ended since.
    return found


def prepare_namespace():
    """Inside a namespace: a thread for each receive queue, which needs NAPI, which veth has with GRO
    on and TSO off only."""
    control = socket.socket()
    for device in os.listdir("/sys/class/net"):
        if device == "lo":
            continue
        # ETHTOOL_SGRO and ETHTOOL_STSO by SIOCETHTOOL, as `ethtool -K DEVICE gro on tso off`.
        for command, on in ((0x2C, 1), (0x1F, 0)):
            value = ctypes.create_string_buffer(struct.pack("II", command, on))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, 0x8946, request)
        write(f"/sys/class/net/{device}/threaded", "1")
    for device in os.listdir("/proc/sys/net/ipv4/conf"):
        write(f"/proc/sys/net/ipv4/conf/{device}/rp_filter", "0")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    prepare_namespace()
