//! The first run: tests the server from the outside and says how to use it.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use turnserver::client::probe::{self, ProbeError, Transport};
use turnserver::config::{Protocol, Settings, User};
use turnserver::server::Server;

use crate::ice::{IceConfiguration, urls};
use crate::ping::reachable;
use crate::print;

/// What the configuration file is usually called.
const USUAL_FILE: &str = "stunner.toml";

/// A server on the same machine answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tests Binding and Allocate on every address, and prints the iceServers JSON to paste.
pub(crate) fn greet(settings: &Settings, user: &User, server: &Server) {
    let version = env!("CARGO_PKG_VERSION");
    print(&format!(
        "turnserver {version} without a configuration file\n"
    ));
    if Path::new(USUAL_FILE).exists() {
        print(&format!(
            "  {USUAL_FILE} is not used; to run by it: turnserver --config {USUAL_FILE}\n"
        ));
    }
    let mut timed_out = false;
    for &(protocol, address) in server.addresses() {
        let transport = match protocol {
            Protocol::Udp => Transport::Udp,
            Protocol::Tcp => Transport::Tcp,
            // The built-in configuration has no certificate.
            Protocol::Tls => continue,
        };
        let Some(server) = on_this_machine(settings, address) else {
            // The kernel opens [::] also where IPv6 is switched off: nobody can reach it.
            continue;
        };
        let result = match test(server, transport, user) {
            Ok(relayed) => format!("Binding and Allocate work (relayed by {relayed})"),
            Err(error) => {
                timed_out |= matches!(error, ProbeError::Timeout);
                format!("FAILED: {error}")
            }
        };
        print(&format!("  {} {server}: {result}", transport.name()));
    }
    for &address in server.signaling_addresses() {
        if let Some(own) = on_this_machine(settings, address) {
            print(&format!(
                "  pairing: http://{own} (turnctl connect {own} KEY)"
            ));
        }
    }
    if timed_out {
        print(&format!(
            "\nA firewall on this machine may be in the way: clients need port 3478 over UDP and \
             TCP, and UDP to the ports {}-{}.",
            settings.relay.ports.start(),
            settings.relay.ports.end()
        ));
    }
    let configuration = IceConfiguration::new(
        urls(settings, None),
        user.name.clone(),
        user.password.expose().into(),
        None,
    );
    print(&format!(
        "\nPaste this into your application, as the argument of new RTCPeerConnection(…):\n\n\
         {}\n\n\
         The password is new at every start. To keep one, write a configuration file:\n  \
         turnserver init\n",
        configuration.json()
    ));
}

fn test(server: SocketAddr, transport: Transport, user: &User) -> Result<SocketAddr, ProbeError> {
    probe::binding(server, transport, PATIENCE)?;
    let password = user.password.expose();
    let allocation = probe::allocate(server, transport, &user.name, password, PATIENCE)?;
    Ok(allocation.relayed)
}

/// A wildcard is tested by the address that clients will use, else by loopback, if this machine
/// has either.
fn on_this_machine(settings: &Settings, address: SocketAddr) -> Option<SocketAddr> {
    if !address.ip().is_unspecified() {
        return Some(address);
    }
    let mut locals = settings.relay.addresses.iter().map(|relay| relay.local);
    match locals.find(|ip| ip.is_ipv4() == address.is_ipv4()) {
        Some(ip) => Some(SocketAddr::new(ip, address.port())),
        None => {
            let loopback = reachable(address);
            let there = UdpSocket::bind((loopback.ip(), 0)).is_ok();
            there.then_some(loopback)
        }
    }
}
