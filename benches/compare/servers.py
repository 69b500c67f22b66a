"""The servers that are compared, each with the least configuration that serves the same users."""

import os
import shutil
import subprocess
import time

from lab import RELAY, SERVER

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILT = os.path.join(ROOT, "target", "release")
CACHE = os.path.join(ROOT, "target", "compare")
# The certificate of all servers; made anew, because it expires.
CERTIFICATE, KEY = os.path.join(CACHE, "cert.pem"), os.path.join(CACHE, "key.pem")
REALM, USER, PASSWORD = "example.org", "user-1", "a-password-1"


class Server:
    """How to run one. `peers` says whether it relays to peers that are not its clients."""

    peers = True
    transports = ("udp", "tcp", "tls")

    def __init__(self, name, version):
        self.name, self.version = name, version

    def command(self, directory):
        raise NotImplementedError

    def start(self, lab, directory):
        """Starts it and waits until it answers; returns its process."""
        for _ in range(10):
            child = self.attempt(lab, directory)
            if child:
                return child
            # The kernel gives the sockets of a killed process back when it gets around to it.
            time.sleep(0.5)
        log = open(os.path.join(directory, "log")).read().strip()
        raise RuntimeError(f"{self.name} does not serve: {log.splitlines()[-1:]}")

    def attempt(self, lab, directory):
        log = open(os.path.join(directory, "log"), "w")
        child = lab.start(lab.far, self.command(directory), stdout=log, stderr=log)
        ping = ["ip", "netns", "exec", lab.near, f"{BUILT}/turnserver", "ping", "--timeout", "1"]
        for _ in range(20):
            time.sleep(0.2)
            if child.poll() is not None:
                return None
            if subprocess.run(ping + [SERVER], capture_output=True).returncode == 0:
                return child
        child.kill()
        child.wait()
        return None


class Ours(Server):
    def __init__(self, data_path):
        version = output([f"{BUILT}/turnserver", "--version"]).split()[-1]
        super().__init__(f"turnserver, {data_path}", version)
        self.data_path = data_path

    def command(self, directory):
        path = os.path.join(directory, "stunner.toml")
        with open(path, "w") as file:
            file.write(self.config())
        os.chmod(path, 0o600)
        return [f"{BUILT}/turnserver", "--config", path]

    def config(self):
        return f"""
realm = "{REALM}"
[[listener]]
protocol = "udp"
address = "{SERVER}:3478"
[[listener]]
protocol = "tcp"
address = "{SERVER}:3478"
[[listener]]
protocol = "tls"
address = "{SERVER}:5349"
certificate = "{CERTIFICATE}"
key = "{KEY}"
[relay]
address = "{RELAY}"
ports = "1024-65535"
[auth.users]
{USER} = "{PASSWORD}"
[peers]
allow = ["10.201.0.0/16"]
[limits]
allocations_per_user = 0
unauthenticated_replies = 0
[log]
level = "warn"
[runtime]
threads = 1
data_path = "{self.data_path}"
"""

    def works(self):
        """Whether this build and this kernel have the data path."""
        os.makedirs(CACHE, exist_ok=True)
        path = os.path.join(CACHE, "check.toml")
        with open(path, "w") as file:
            file.write(self.config().replace(SERVER, "127.0.0.1").replace(RELAY, "127.0.0.1"))
        command = [f"{BUILT}/turnserver", "check", "--config", path]
        return subprocess.run(command, capture_output=True).returncode == 0


class Coturn(Server):
    def __init__(self):
        # Debian's; ours has the same name.
        paths = ("/usr/bin/turnserver", "/usr/sbin/turnserver")
        self.program = next((path for path in paths if os.path.exists(path)), None)
        if self.program is None:
            raise RuntimeError("apt-get install coturn")
        super().__init__("coturn", output([self.program, "--version"]).split()[-1])

    def command(self, directory):
        return [
            self.program, "-n", "--no-cli", "--no-dtls", f"--cert={CERTIFICATE}", f"--pkey={KEY}",
            "--lt-cred-mech", f"--user={USER}:{PASSWORD}", f"--realm={REALM}",
            f"--listening-ip={SERVER}", f"--relay-ip={RELAY}", "--listening-port=3478", "--tls-listening-port=5349",
            "--min-port=1024", "--max-port=65535", "--relay-threads=1", "--log-file=/dev/null",
            f"--pidfile={directory}/pid", f"--userdb={directory}/db",
        ]  # fmt: skip


class TurnRs(Server):
    """Has no relay sockets: its clients reach each other only."""

    peers = False
    transports = ("udp", "tcp")
    RELEASE = "4.1.5"

    def __init__(self):
        self.program = f"{CACHE}/turn-rs/bin/turn-server"
        if not os.path.exists(self.program):
            self.install()
        super().__init__("turn-rs", output([self.program, "--version"]).split()[-1])

    def install(self):
        cargo = shutil.which("cargo")
        if cargo is None:
            raise RuntimeError("no cargo to install it with")
        done = subprocess.run(
            [cargo, "install", "turn-server", "--version", self.RELEASE, "--locked",
             "--no-default-features", "--features", "udp,tcp", "--root", f"{CACHE}/turn-rs",
             "--target-dir", f"{CACHE}/build"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"cargo install turn-server: {done.stderr[-500:]}")

    def command(self, directory):
        path = os.path.join(directory, "turn-server.toml")
        with open(path, "w") as file:
            file.write(f"""
[server]
realm = "{REALM}"
max-threads = 1
port-range = "49152..65535"
[[server.interfaces]]
transport = "udp"
listen = "{SERVER}:3478"
external = "{SERVER}:3478"
[[server.interfaces]]
transport = "tcp"
listen = "{SERVER}:3478"
external = "{SERVER}:3478"
[auth.static-credentials]
{USER} = "{PASSWORD}"
[log]
level = "error"
""")
        return [self.program, "--config", path]


def output(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make_certificate():
    """For the servers; the load generator trusts any."""
    os.makedirs(CACHE, exist_ok=True)
    output(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "7", "-subj", f"/CN={SERVER}", "-addext",
            f"subjectAltName=IP:{SERVER}", "-keyout", KEY, "-out", CERTIFICATE])  # fmt: skip


def available(wanted, say):
    """The servers of these names that can be had; says why when one cannot."""
    make_certificate()
    makers = {
        "io_uring": lambda: Ours("io_uring"),
        "mmsg": lambda: Ours("mmsg"),
        "coturn": Coturn,
        "turn-rs": TurnRs,
    }
    found, missing = [], []
    for name in wanted:
        try:
            server = makers[name]()
            if isinstance(server, Ours) and not server.works():
                raise RuntimeError("this build or this kernel does not have the data path")
            found.append(server)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            missing.append(f"{name}: {error}")
            say(f"without {missing[-1]}")
    return found, missing
