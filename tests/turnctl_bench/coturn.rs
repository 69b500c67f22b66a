//! coturn's server is measured as the built one is.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{LOAD, assert_clean, bench, credentials, measured, number};
use crate::support::tools::{Background, need};
use crate::support::{Ports, REALM, USER, stun, wait_until};

/// coturn's server with the test's user.
struct Coturn {
    _process: Background,
    address: SocketAddr,
    _ports: Ports,
    _dir: tempfile::TempDir,
}

impl Coturn {
    fn start() -> Self {
        let ports = Ports::claim();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let in_dir = |name: &str| -> String {
            let path: &Path = dir.path();
            path.join(name).to_string_lossy().into_owned()
        };
        let (first, last) = ports.relay();
        let user = format!("{}:{}", USER.0, USER.1);
        let process = Background::start(&[
            &need("turnserver", "coturn"),
            "-n",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--lt-cred-mech",
            "--allow-loopback-peers",
            "--listening-ip=127.0.0.1",
            "--relay-ip=127.0.0.1",
            &format!("--listening-port={}", ports.plain()),
            &format!("--min-port={first}"),
            &format!("--max-port={last}"),
            &format!("--realm={REALM}"),
            &format!("--user={user}"),
            &format!("--pidfile={}", in_dir("pid")),
            &format!("--userdb={}", in_dir("db")),
            &format!("--log-file={}", in_dir("log")),
        ]);
        let address = SocketAddr::from(([127, 0, 0, 1], ports.plain()));
        let up = wait_until(Duration::from_secs(15), || {
            stun::binding_udp(address, Duration::from_millis(100)).is_some()
        });
        assert!(up, "coturn does not answer");
        Self {
            _process: process,
            address,
            _ports: ports,
            _dir: dir,
        }
    }
}

#[test]
fn coturn_is_measured_too() {
    let coturn = Coturn::start();
    let address = coturn.address.to_string();
    // An address of its own for each run: coturn remembers the ports of clients for a while, and
    // the system may hand out one of them again.
    for more in [
        &["-t", "udp", "--bind", "127.0.1.1"][..],
        &["-t", "tcp", "--bind", "127.0.1.2"],
        &["-t", "udp", "--indications", "--bind", "127.0.1.3"],
        &["-t", "udp", "--pairs", "--bind", "127.0.1.4"],
    ] {
        let mut arguments = vec![address.as_str()];
        arguments.extend(LOAD);
        arguments.extend(credentials());
        arguments.extend(more);
        let (code, json) = measured(&arguments);
        assert_clean(code, &json);
    }
    for (mode, bind, seconds) in [
        ("binding", "127.0.1.5", "0.5"),
        // coturn does not use a relay port again at once, and here it has 450 of them.
        ("allocate", "127.0.1.6", "0.05"),
    ] {
        let mut arguments = vec![address.as_str(), "-m", mode, "--concurrency", "2"];
        arguments.extend(["--bind", bind, "--warm-up", "0", "--duration", seconds]);
        arguments.extend(credentials());
        let (code, json) = measured(&arguments);
        assert_eq!(code, 0, "{json:#}");
        assert!(number(&json["completed"]) > 5, "{json:#}");
    }
    let wrong = bench(&[&address, "-u", USER.0, "-p", "wrong", "--bind", "127.0.1.7"]);
    assert_eq!(wrong.code, 1, "{}", wrong.text);
    assert!(wrong.text.contains("wrong user name or password"));
}
