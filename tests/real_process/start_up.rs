//! Start-up errors.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{directory, refused};
use crate::support::namespace::Namespace;
use crate::support::stun;
use crate::support::tools::need;
use crate::support::{Config, Ports, Server, binary, wait_until};

fn assert_says(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    for word in words {
        assert!(
            lower.contains(&word.to_lowercase()),
            "no {word:?} in:\n{text}"
        );
    }
}

#[test]
fn a_second_server_on_the_same_ports_is_refused() {
    let server = Server::start();
    let directory = directory();
    let config = Config {
        relay_ports: Some((60_000, 60_100)),
        ..server.config.clone()
    };
    let said = refused(&config.render(&server.ports), directory.path());
    assert_says(
        &said,
        &["could not bind", &server.ports.plain().to_string()],
    );
    // The first one was not robbed of its clients.
    for _ in 0..20 {
        assert!(stun::binding_udp(server.udp(), Duration::from_secs(1)).is_some());
    }
}

#[test]
fn a_port_that_another_program_holds_is_named() {
    let ports = Ports::claim();
    let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports.plain())).expect("it is free");
    let said = refused(&Config::default().render(&ports), directory().path());
    assert_says(
        &said,
        &[
            "could not bind",
            "in use",
            "udp",
            &ports.plain().to_string(),
        ],
    );

    let ports = Ports::claim();
    let _tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.plain())).expect("it is free");
    let said = refused(&Config::default().render(&ports), directory().path());
    assert_says(
        &said,
        &[
            "could not bind",
            "in use",
            "tcp",
            &ports.plain().to_string(),
        ],
    );
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_named_with_what_it_takes() {
    // 100 ports on each of two addresses, and what a server has open itself.
    let ports = Ports::claim();
    let relay_ports = Some((ports.relay().0, ports.relay().0 + 99));
    let limits = Config::default().limits;
    for (open_files, limits, warned) in [
        (300, limits.clone(), true),
        (328, limits.clone(), false),
        // Both families for each.
        (300, format!("{limits}allocations = 86\n"), false),
        (299, format!("{limits}allocations = 86\n"), true),
    ] {
        let config = Config {
            relay_ports,
            limits,
            ..Config::default()
        };
        let directory = directory();
        let file = directory.path().join("stunner.toml");
        fs::write(&file, config.render(&ports)).expect("config written");
        let log = fs::File::create(directory.path().join("log")).expect("log file");
        let mut server = Command::new(need("prlimit", "util-linux"))
            .arg(format!("--nofile={open_files}"))
            .args([binary(), "--config", &file.to_string_lossy()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn()
            .expect("prlimit starts");
        let said = || fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        let up = wait_until(Duration::from_secs(15), || said().contains("serving"));
        server.kill().expect("it runs");
        server.wait().expect("a child can be waited for");
        assert!(up, "{}", said());
        let wanted = if open_files == 299 { 300 } else { 328 };
        assert_eq!(
            said().contains(&format!("LimitNOFILE={wanted}")),
            warned,
            "{open_files}:\n{}",
            said()
        );
        assert_eq!(said().contains("the limit of open files"), warned);
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    let ports = Ports::claim();
    let text = Config::default()
        .render(&ports)
        .replace("127.0.0.1:", "192.0.2.55:");
    let said = refused(&text, directory().path());
    assert_says(&said, &["192.0.2.55", "interface"]);
}

#[test]
fn a_relay_address_of_another_machine_is_named() {
    let ports = Ports::claim();
    let text = Config::default().render(&ports).replace(
        "[relay]\naddress = [\"127.0.0.1\"",
        "[relay]\naddress = [\"192.0.2.55\"",
    );
    assert!(text.contains("192.0.2.55"));
    let said = refused(&text, directory().path());
    assert_says(&said, &["192.0.2.55"]);
}

#[test]
fn a_privileged_port_needs_a_privilege() {
    // Inside a namespace, where the range of privileged ports is what the kernel starts with,
    // and as a user without any capability.
    let namespace = Namespace::new();
    let directory = directory();
    let file = directory.path().join("stunner.toml");
    let ports = Ports::claim();
    let text = Config {
        tls: false,
        ..Config::default()
    };
    let text = text
        .render(&ports)
        .replace(&format!(":{}", ports.plain()), ":99");
    fs::write(&file, text).expect("config written");
    let output = namespace.run(
        &[
            &need("setpriv", "util-linux"),
            "--bounding-set=-all",
            "--inh-caps=-all",
            "--no-new-privs",
            binary(),
            "--config",
            &file.to_string_lossy(),
        ],
        Duration::from_secs(10),
    );
    assert!(output.code != 0 && output.code != 124, "{}", output.text);
    assert_says(&output.text, &["99", "CAP_NET_BIND_SERVICE"]);
}

#[test]
fn no_credentials_no_service() {
    let ports = Ports::claim();
    let config = Config {
        users: Vec::new(),
        secrets: Vec::new(),
        ..Config::default()
    };
    let said = refused(&config.render(&ports), directory().path());
    assert_says(&said, &["credentials", "[auth"]);
}

#[test]
fn every_mistake_is_shown_at_once() {
    let ports = Ports::claim();
    let text = Config::default()
        .render(&ports)
        .replace("level = ", "levle = ")
        + "[drain]\ndeadline = \"soon\"\n";
    let said = refused(&text, directory().path());
    assert_says(&said, &["levle", "level", "deadline", "stunner.toml:"]);
}

#[test]
fn a_missing_certificate_is_named() {
    let ports = Ports::claim();
    let directory = directory();
    fs::remove_file(directory.path().join("cert.pem")).expect("it was there");
    let said = refused(&Config::default().render(&ports), directory.path());
    assert_says(&said, &["cert.pem"]);
}
