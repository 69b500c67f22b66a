//! coturn's client tools against the built server.
//!
//! `turnutils_uclient` exits with 0 even when every packet is lost, so its totals are read.

mod support;

use std::time::Duration;

use support::tools::{Background, Output, need, run};
use support::{Config, SECRET, Server, USER, wait_until};

const MESSAGES: u64 = 30;
const CLIENTS: u64 = 2;

/// One run of `turnutils_uclient`.
fn uclient(arguments: &[&str]) -> Output {
    let program = need("turnutils_uclient", "coturn");
    let mut command = vec![program.as_str()];
    command.extend_from_slice(arguments);
    run(&command, Duration::from_secs(60))
}

/// A run with a static user that must lose nothing. The last argument is the server's host.
fn relays(server: &Server, port: u16, arguments: &[&str]) {
    let (messages, clients) = (MESSAGES.to_string(), CLIENTS.to_string());
    let port = port.to_string();
    let mut command = vec!["-p", &port, "-n", &messages, "-m", &clients, "-l", "171"];
    if !arguments.contains(&"-W") {
        command.extend_from_slice(&["-u", USER.0, "-w", USER.1]);
    }
    command.extend_from_slice(arguments);
    let output = uclient(&command);
    let totals = totals(&output.text).unwrap_or_else(|| {
        panic!(
            "uclient {} got nowhere (exit {}):\n{}\nserver's log:\n{}",
            command.join(" "),
            output.code,
            output.text,
            server.log()
        )
    });
    // A control client on every RTP port's odd neighbour sends nothing of its own.
    let all = MESSAGES * CLIENTS;
    // Under TLS the client reads one record for each wake-up of its socket, and ends with up to
    // four unread: there the server's own account has to be complete as well.
    let unread = if arguments.contains(&"-S") {
        4 * CLIENTS
    } else {
        0
    };
    assert!(
        totals.0 == all && (all - unread..=all).contains(&totals.1),
        "uclient {} lost messages (exit {}):\n{}",
        command.join(" "),
        output.code,
        output.text
    );
    if unread > 0 {
        let complete = || account(server) == [all, all, 0];
        assert!(
            wait_until(Duration::from_secs(10), complete),
            "{:?} are not {all} up, {all} down, none dropped:\n{}",
            account(server),
            server.log()
        );
    }
}

/// Packets up, packets down and packets dropped of all allocations that ended.
fn account(server: &Server) -> [u64; 3] {
    let log = server.log();
    let ended = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["message"] == "allocation ended");
    ended.fold([0; 3], |mut sum, line| {
        for (sum, key) in sum
            .iter_mut()
            .zip(["packets_up", "packets_down", "dropped"])
        {
            *sum += line[key].as_u64().unwrap_or(u64::MAX / 4);
        }
        sum
    })
}

/// The final `tot_send_msgs` and `tot_recv_msgs`: the only lines that carry them without `msz`.
fn totals(text: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .rfind(|line| line.contains("tot_send_msgs=") && !line.contains("msz="))?;
    let number = |name: &str| {
        let rest = line.split(name).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    Some((number("tot_send_msgs=")?, number("tot_recv_msgs=")?))
}

/// An echo peer of coturn's on both loopback addresses.
fn peer(server: &Server) -> (Background, String) {
    let port = server.ports.peer().to_string();
    let program = need("turnutils_peer", "coturn");
    let peer = Background::start(&[&program, "-L", "127.0.0.1", "-L", "::1", "-p", &port]);
    (peer, port)
}

/// Runs over a server of its own with an echo peer.
fn relays_to_peer(arguments: &[&str], peer_host: &str, server_host: &str) {
    let server = Server::start();
    let (_peer, port) = peer(&server);
    let mut all = arguments.to_vec();
    all.extend_from_slice(&["-e", peer_host, "-r", &port, server_host]);
    let listener = match arguments.contains(&"-S") {
        true => server.ports.tls(),
        false => server.ports.plain(),
    };
    relays(&server, listener, &all);
}

#[test]
fn udp_with_channels() {
    relays_to_peer(&["-c"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn udp_with_send_indications() {
    relays_to_peer(&["-c", "-s"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn tcp_with_channels() {
    relays_to_peer(&["-c", "-t"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn tcp_with_send_indications() {
    relays_to_peer(&["-c", "-t", "-s"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn tls_with_channels() {
    relays_to_peer(&["-c", "-t", "-S"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn tls_with_send_indications() {
    relays_to_peer(&["-c", "-t", "-S", "-s"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn ipv6_server_and_peer() {
    relays_to_peer(&["-c", "-x"], "::1", "::1");
}

#[test]
fn ipv6_server_and_peer_over_tcp() {
    relays_to_peer(&["-c", "-x", "-t"], "::1", "::1");
}

#[test]
fn ipv4_server_with_ipv6_relay() {
    relays_to_peer(&["-c", "-x"], "::1", "127.0.0.1");
}

#[test]
fn ipv6_server_with_ipv4_relay() {
    relays_to_peer(&["-c", "-X", "-s"], "127.0.0.1", "::1");
}

#[test]
fn even_port_pairs() {
    // Without -c every port is asked for by EVEN-PORT and its neighbour by RESERVATION-TOKEN.
    relays_to_peer(&[], "127.0.0.1", "127.0.0.1");
}

#[test]
fn even_port_pairs_over_tcp() {
    relays_to_peer(&["-t"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn dont_fragment() {
    relays_to_peer(&["-c", "-g"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn dont_fragment_on_send_indications() {
    relays_to_peer(&["-c", "-g", "-s"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn padded_channels_over_udp() {
    relays_to_peer(&["-c", "-D"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn extra_requests() {
    relays_to_peer(&["-c", "-G"], "127.0.0.1", "127.0.0.1");
}

#[test]
fn time_limited_credentials() {
    relays_to_peer(
        &["-c", "-u", "alice", "-W", SECRET],
        "127.0.0.1",
        "127.0.0.1",
    );
}

#[test]
fn client_to_client_over_udp() {
    let server = Server::start();
    relays(&server, server.ports.plain(), &["-c", "-y", "127.0.0.1"]);
}

#[test]
fn client_to_client_over_udp_with_send_indications() {
    let server = Server::start();
    relays(
        &server,
        server.ports.plain(),
        &["-c", "-y", "-s", "127.0.0.1"],
    );
}

#[test]
fn client_to_client_over_tcp_on_ipv6() {
    let server = Server::start();
    relays(
        &server,
        server.ports.plain(),
        &["-c", "-y", "-t", "-x", "::1"],
    );
}

#[test]
fn client_to_client_needs_no_open_loopback() {
    // Live relayed transport addresses are exempt from the built-in list, but loopback never is:
    // with an empty `allow` the same run gets 403.
    let server = Server::with(Config {
        peers: String::new(),
        ..Config::default()
    });
    let port = server.ports.plain().to_string();
    let output = uclient(&[
        "-p",
        &port,
        "-n",
        "5",
        "-m",
        "2",
        "-u",
        USER.0,
        "-w",
        USER.1,
        "-c",
        "-y",
        "127.0.0.1",
    ]);
    assert_eq!(totals(&output.text).map_or(0, |totals| totals.1), 0);
    assert!(output.text.contains("403"), "{}", output.text);
}

#[test]
fn wrong_password_is_refused() {
    let server = Server::start();
    let (_peer, peer_port) = peer(&server);
    for transport in ["-c", "-t"] {
        let port = server.ports.plain().to_string();
        let output = uclient(&[
            "-p",
            &port,
            "-n",
            "5",
            "-u",
            USER.0,
            "-w",
            "wrong",
            "-e",
            "127.0.0.1",
            "-r",
            &peer_port,
            transport,
            "127.0.0.1",
        ]);
        assert!(
            output.text.contains("Cannot complete Allocation"),
            "{}",
            output.text
        );
        assert_eq!(totals(&output.text), None, "nothing was sent");
    }
}

#[test]
fn stunclient_learns_its_address() {
    let server = Server::start();
    let program = need("turnutils_stunclient", "coturn");
    let port = server.ports.plain().to_string();
    for (host, expected) in [("127.0.0.1", "127.0.0.1:"), ("::1", "::1:")] {
        let output = run(&[&program, "-p", &port, host], Duration::from_secs(20));
        let reflexive = output
            .text
            .lines()
            .find_map(|line| line.split("UDP reflexive addr: ").nth(1))
            .unwrap_or_else(|| panic!("no answer from {host}:\n{}", output.text));
        assert!(reflexive.trim().starts_with(expected), "{reflexive}");
    }
}
