//! The command line as people and containers use it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use turnserver::client::probe::{self, ProbeError, Transport};
use turnserver::config::{self, Machine, Overrides};
use turnserver::wire::{Builder, Class, Message, Method, TransactionId, attr, rest_password};

const SECRET: &str = "a-long-random-secret";

/// The binary, with nothing in its environment that configures it.
fn turnserver(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnserver"));
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TURNSERVER_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    turnserver(arguments)
        .output()
        .expect("the binary was built")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

struct File {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stunner.toml");
        std::fs::write(&path, text).expect("writable");
        Self { directory, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

/// A configuration on loopback with a secret and a user, and more lines at the top.
fn file(lines: &str) -> File {
    File::new(&format!(
        "realm = \"example.org\"\n{lines}\n[auth]\nsecrets = [\"{SECRET}\"]\n[auth.users]\nalice = \"her-password\"\n"
    ))
}

#[test]
fn check_shows_what_is_in_force_and_no_secret() {
    let file = file("[relay]\naddress = [\"127.0.0.1\", \"::1\"]\nports = \"40000-43999\"");
    let output = run(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let shown = out(&output);
    assert!(shown.contains("stunner.toml is valid"), "{shown}");
    assert!(
        shown.contains("Capacity: 8000 allocations (4000 IPv4, 4000 IPv6"),
        "{shown}"
    );
    assert!(shown.contains("max_lifetime = 3600"), "{shown}");
    assert!(shown.contains("users.alice = \"(redacted)\""), "{shown}");
    assert!(
        !shown.contains(SECRET) && !shown.contains("her-password"),
        "{shown}"
    );
    let warnings = err(&output);
    assert!(
        warnings.contains("warning: relaying on the loopback address 127.0.0.1"),
        "{warnings}"
    );
    assert!(
        warnings.contains("everybody on this machine may read it"),
        "{warnings}"
    );
}

#[test]
fn check_takes_the_file_as_an_argument_and_names_the_environment() {
    let file = file("[relay]\naddress = \"127.0.0.1\"");
    let output = turnserver(&["check", file.path(), "--realm", "flag.example"])
        .env("TURNSERVER_REALM", "env.example")
        .env("TURNSERVER_SECRETS", "another-long-secret")
        .output()
        .expect("the binary was built");
    assert!(output.status.success(), "{}", err(&output));
    let shown = out(&output);
    assert!(
        shown.contains("# From environment and flags: --realm, TURNSERVER_SECRETS"),
        "{shown}"
    );
    assert!(shown.contains("realm = \"flag.example\""), "{shown}");
}

#[test]
fn check_says_every_error_and_exits_with_one() {
    let file = File::new("realm = 5\n[auth]\nsecrets = [\"hunter2-hunter2\", 3]\n");
    let output = run(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = err(&output);
    assert!(
        shown.contains("stunner.toml:1:9") && shown.contains("stunner.toml:3:31"),
        "{shown}"
    );
    assert!(shown.contains("2 errors"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        !shown.contains('\u{1b}'),
        "no colours where it is not a terminal"
    );
}

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [
        &["chekc"][..],
        &["ping", "--timeout", "0"],
        &["--public-address", "x"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!err(&output).is_empty());
    }
}

#[test]
fn every_command_has_help() {
    let shown = out(&run(&["--help"]));
    for word in [
        "check",
        "credentials",
        "ping",
        "init",
        "TURNSERVER_SECRETS",
        "SIGHUP",
    ] {
        assert!(shown.contains(word), "{shown}");
    }
    for command in ["check", "credentials", "ping", "init"] {
        let output = run(&[command, "--help"]);
        assert!(
            output.status.success() && out(&output).contains("Usage:"),
            "{command}"
        );
    }
}

#[test]
fn a_configuration_without_credentials_refuses_to_start() {
    let file = File::new("realm = \"example.org\"\n");
    let output = run(&["--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = err(&output);
    assert!(shown.contains("no credentials are configured"), "{shown}");
    assert!(
        shown.contains("secrets = [") && shown.contains("alice ="),
        "{shown}"
    );
}

#[test]
fn a_relay_for_pairs_alone_says_so_and_has_no_credentials_to_print() {
    let file = File::new("realm = \"example.org\"\n[signaling]\n");
    let output = run(&["check", file.path()]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        err(&output).contains("only devices that `[signaling]` pairs may allocate"),
        "{}",
        err(&output)
    );
    let output = run(&["credentials", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("only devices that are paired"),
        "{}",
        err(&output)
    );
}

fn certificate(directory: &Path, name: &str, until: i32) {
    let mut parameters = rcgen::CertificateParams::new(vec![name.into()]).expect("a name");
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("signed");
    std::fs::write(directory.join("cert.pem"), certificate.pem()).expect("writable");
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).expect("writable");
}

const TLS: &str = "[[listener]]\nprotocol = \"tls\"\naddress = \"192.0.2.7:443\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"";

#[test]
fn check_looks_into_certificates() {
    let file = file(TLS);
    certificate(file.directory.path(), "turn.example.org", 2199);
    let output = run(&["check", file.path()]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        out(&output).contains("cert.pem: turn.example.org, "),
        "{}",
        out(&output)
    );
    assert!(!err(&output).contains("expire"), "{}", err(&output));

    certificate(file.directory.path(), "turn.example.org", 2001);
    let output = run(&["check", file.path()]);
    assert!(output.status.success());
    assert!(
        err(&output).contains("cert.pem has expired"),
        "{}",
        err(&output)
    );

    std::fs::write(file.directory.path().join("cert.pem"), "nonsense").expect("writable");
    let output = run(&["check", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = err(&output);
    assert!(
        shown.contains("holds no certificate") && shown.contains("stunner.toml:5:15"),
        "{shown}"
    );
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", err(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn urls(json: &serde_json::Value) -> Vec<&str> {
    let urls = json["iceServers"][0]["urls"].as_array().expect("a list");
    urls.iter().filter_map(|url| url.as_str()).collect()
}

#[test]
fn credentials_are_minted_from_the_first_secret() {
    let file = file(
        "[relay]\naddress = \"127.0.0.1\"\n[[listener]]\nprotocol = \"udp\"\naddress = \"127.0.0.1:3478\"",
    );
    let output = run(&[
        "credentials",
        "--config",
        file.path(),
        "--user",
        "bob",
        "--ttl",
        "60",
    ]);
    let json = json(&output);
    let server = &json["iceServers"][0];
    let username = server["username"].as_str().expect("a string");
    let (expiry, user) = username.split_once(':').expect("EXPIRY:user");
    assert_eq!(user, "bob");
    assert!(expiry.parse::<u64>().expect("a time") > 1_700_000_000);
    assert_eq!(
        server["credential"].as_str(),
        Some(rest_password(SECRET.as_bytes(), username.as_bytes(), false).as_str())
    );
    assert_eq!(json["ttl"], 60);
    assert_eq!(urls(&json), ["turn:127.0.0.1:3478?transport=udp"]);
}

/// RFC 8489 section 14.3: fewer than 509 bytes, the expiry and its colon included.
#[test]
fn credentials_that_no_client_could_send_are_not_made() {
    let file = file("[relay]\naddress = \"127.0.0.1\"");
    let of = |user: &str| run(&["credentials", "--config", file.path(), "--user", user]);
    assert!(of(&"x".repeat(497)).status.success());
    for (user, why) in [
        (&*"x".repeat(498), "509 bytes"),
        ("al\tice", "control character"),
    ] {
        let output = of(user);
        assert_eq!(output.status.code(), Some(1), "{user}");
        assert!(err(&output).contains(why), "{}", err(&output));
    }
}

#[test]
fn check_warns_of_what_would_fail_here() {
    let file = file("[relay]\naddress = \"203.0.113.7\"");
    let output = turnserver(&["check", file.path()])
        .env("TURNSERVER_SECRET", "oops")
        .output()
        .expect("the binary was built");
    assert!(output.status.success(), "{}", err(&output));
    let shown = err(&output);
    assert!(
        shown.contains("203.0.113.7 is no address of this machine"),
        "{shown}"
    );
    assert!(
        shown.contains("did you mean TURNSERVER_SECRETS?"),
        "{shown}"
    );
    assert!(!shown.contains("oops"), "{shown}");
}

#[test]
fn urls_are_what_the_world_sees() {
    let lines = format!(
        "[[listener]]\nprotocol = \"tcp\"\naddress = [\"10.0.0.1:3478\", \"127.0.0.1:3478\"]\n{TLS}\n\
         [[listener]]\nprotocol = \"udp\"\naddress = [\"0.0.0.0:3478\", \"[::]:3478\"]\n\
         [relay]\naddress = [\"10.0.0.1\", \"2001:db8::1\"]\npublic_address = \"203.0.113.7\""
    );
    let file = file(&lines);
    certificate(file.directory.path(), "turn.example.org", 2199);
    let json_of = |more: &[&str]| {
        let mut arguments = vec!["credentials", "--config", file.path()];
        arguments.extend(more);
        json(&run(&arguments))
    };
    assert_eq!(
        urls(&json_of(&[])),
        [
            "turn:203.0.113.7:3478?transport=udp",
            "turn:[2001:db8::1]:3478?transport=udp",
            "turn:203.0.113.7:3478?transport=tcp",
            "turns:turn.example.org:443?transport=tcp",
        ]
    );
    assert_eq!(
        urls(&json_of(&["--host", "relay.example.net"])),
        [
            "turn:relay.example.net:3478?transport=udp",
            "turn:relay.example.net:3478?transport=tcp",
            "turns:relay.example.net:443?transport=tcp",
        ]
    );
}

#[test]
fn without_a_secret_the_static_user_is_given() {
    let text = "realm = \"r\"\n[relay]\naddress = \"127.0.0.1\"\n[auth.users]\nalice = \"pass-a\"\nbob = \"pass-b\"\n";
    let file = File::new(text);
    let json_of = |more: &[&str]| {
        let mut arguments = vec!["credentials", "--config", file.path()];
        arguments.extend(more);
        run(&arguments)
    };
    let first = json(&json_of(&[]));
    assert_eq!(first["iceServers"][0]["username"], "alice");
    assert!(first.get("ttl").is_none());
    let bob = json(&json_of(&["--user", "bob"]));
    assert_eq!(bob["iceServers"][0]["credential"], "pass-b");
    let unknown = json_of(&["--user", "carol"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        err(&unknown).contains("the users are: alice, bob"),
        "{}",
        err(&unknown)
    );
    assert_eq!(json_of(&["--ttl", "60"]).status.code(), Some(1));
}

#[test]
fn init_writes_a_file_that_serves_and_never_overwrites() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("stunner.toml");
    let path = path.to_str().expect("UTF-8");
    assert!(run(&["init", path]).status.success());
    let mode = std::fs::metadata(path)
        .expect("written")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let written = std::fs::read_to_string(path).expect("written");
    let machine = Machine {
        ipv4: Some([192, 0, 2, 1].into()),
        ..Machine::default()
    };
    let settings = config::load(&written, Path::new(path), &Overrides::none(), &machine);
    let secrets = settings.expect("it is complete").auth.secrets;
    assert_eq!(secrets[0].expose().len(), 64);
    assert_eq!(run(&["init", path]).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(path).expect("still there"), written);
}

/// A port that was free for both transports a moment ago.
fn free_port() -> u16 {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = udp.local_addr().expect("bound");
        if TcpListener::bind(address).is_ok() {
            return address.port();
        }
    }
    panic!("no port is free for UDP and TCP");
}

/// Ends the server with the test.
struct Server(Child);

impl Server {
    fn start(path: &str) -> Self {
        let child = turnserver(&["--config", path])
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("the binary was built"))
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill is there").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pings until the server has come up, and returns what the ping said then.
fn comes_up(ping: &[&str]) -> Option<String> {
    (0..50).find_map(|_| {
        let output = run(ping);
        if output.status.success() {
            return Some(out(&output));
        }
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|s| {
            s.set_read_timeout(Some(Duration::from_millis(100)))
                .and(s.recv(&mut [0]))
        });
        None
    })
}

#[test]
fn a_server_answers_ping_over_both_transports_and_stops_on_sigterm() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let listeners = ["udp", "tcp"]
        .map(|p| format!("[[listener]]\nprotocol = \"{p}\"\naddress = \"{address}\"\n"))
        .concat();
    let file = file(&format!("{listeners}[relay]\nports = \"20000-29999\""));
    let mut server = Server::start(file.path());
    let up = comes_up(&["ping", &address]).is_some();
    assert!(up, "the server did not come up");
    for transport in ["udp", "tcp"] {
        let output = run(&["ping", &address, "--transport", transport]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(
            out(&output).contains("is seen as 127.0.0.1:"),
            "{}",
            out(&output)
        );
        let by_config = run(&["ping", "--config", file.path(), "--transport", transport]);
        assert!(out(&by_config).starts_with(&format!("{address} {transport}")));
    }
    let server_address: SocketAddr = address.parse().expect("an address");
    for transport in [Transport::Udp, Transport::Tcp] {
        let second = Duration::from_secs(2);
        let done = probe::allocate(server_address, transport, "alice", "her-password", second)
            .expect("alice may allocate");
        assert!((20_000..30_000).contains(&done.relayed.port()));
        let refused = probe::allocate(server_address, transport, "alice", "wrong", second);
        assert!(matches!(refused, Err(ProbeError::Refused { code, .. }) if code.value() == 401));
    }
    server.signal("-TERM");
    assert_eq!(server.0.wait().expect("it ends").code(), Some(0));
}

/// A health check reaches the server by an address that its certificate does not name.
#[test]
fn ping_over_tls_takes_any_certificate() {
    let (tls, both) = (free_port(), free_port());
    let certificate_lines = "certificate = \"cert.pem\"\nkey = \"key.pem\"";
    let listeners = {
        format!(
            "[[listener]]\nprotocol = \"tls\"\naddress = \"127.0.0.1:{tls}\"\n\
             {certificate_lines}\n[relay]\nports = \"20000-29999\""
        )
    };
    let only = file(&listeners);
    certificate(only.directory.path(), "turn.example.org", 2199);
    let server = Server::start(only.path());
    let up = comes_up(&["ping", "--config", only.path()]).is_some();
    assert!(up, "the only listener is asked");
    let address = format!("127.0.0.1:{tls}");
    let output = run(&["ping", &address, "--transport", "tls"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).starts_with(&format!("{address} tls: this address is seen as 127.")));
    let output = run(&["ping", "--config", only.path(), "--transport", "udp"]);
    assert!(err(&output).contains("no udp listener"), "{}", err(&output));
    drop(server);
    let output = run(&["ping", "--config", only.path()]);
    assert!(
        err(&output).contains("nothing listens there"),
        "{}",
        err(&output)
    );

    // A tcp listener with a certificate is asked by both, and udp comes first.
    let lines = format!(
        "[[listener]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:{both}\"\n\
         {certificate_lines}\n[[listener]]\nprotocol = \"udp\"\naddress = \"127.0.0.1:{both}\"\n\
         [relay]\nports = \"20000-29999\""
    );
    let mixed = file(&lines);
    certificate(mixed.directory.path(), "turn.example.org", 2199);
    let _server = Server::start(mixed.path());
    for (transport, shown) in [(None, "udp"), (Some("tcp"), "tcp"), (Some("tls"), "tls")] {
        let mut arguments = vec!["ping", "--config", mixed.path(), "--timeout", "5"];
        arguments.extend(transport.iter().flat_map(|name| ["--transport", name]));
        let answered = comes_up(&arguments).expect("it answers");
        assert!(
            answered.starts_with(&format!("127.0.0.1:{both} {shown}:")),
            "{answered}"
        );
    }

    // Something listens, and does not shake hands.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let output = run(&["ping", &address, "--transport", "tls", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no answer within 1 s"),
        "{}",
        err(&output)
    );
}

#[test]
fn ping_fails_with_one_where_nothing_answers() {
    let port = free_port();
    for transport in ["udp", "tcp"] {
        let output = run(&[
            "ping",
            &format!("127.0.0.1:{port}"),
            "--transport",
            transport,
        ]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("nothing listens there"),
            "{}",
            err(&output)
        );
    }
    // Something listens, and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let output = run(&["ping", &address, "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no answer within 1 s"),
        "{}",
        err(&output)
    );
}

/// A stopped and continued process has its system calls interrupted, as under a job control shell.
#[test]
fn an_interrupted_ping_goes_on() {
    for transport in ["udp", "tcp"] {
        let both = || {
            let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let listener = TcpListener::bind(silent.local_addr().expect("bound"));
            listener.ok().map(|listener| (silent, listener))
        };
        let found = (0..100).find_map(|_| both());
        let (silent, listener) = found.expect("a port that is free for both");
        let address = listener.local_addr().expect("bound").to_string();
        let ping = turnserver(&["ping", &address, "--transport", transport])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        // It waits for an answer by then.
        let accepted = match transport {
            "tcp" => Some(listener.accept().expect("a connection")),
            _ => {
                silent.recv(&mut [0; 100]).expect("a request");
                None
            }
        };
        let mut ping = Server(ping);
        for signal in ["-STOP", "-CONT"] {
            ping.signal(signal);
        }
        let mut shown = String::new();
        let errors = ping.0.stderr.as_mut().expect("piped");
        errors.read_to_string(&mut shown).expect("UTF-8");
        assert!(
            shown.contains("no answer within 2 s"),
            "{transport}: {shown}"
        );
        drop(accepted);
    }
}

/// RFC 8489 section 6.2.1: a lost request is sent again with the same transaction id, and a
/// response to another one is not taken.
#[test]
fn a_binding_request_is_sent_again() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("bound");
    let answering = thread::spawn(move || {
        let mut first = [0; 1500];
        let (len, _) = server.recv_from(&mut first).expect("a request");
        let mut again = [0; 1500];
        let (len_again, client) = server.recv_from(&mut again).expect("the same request");
        assert_eq!(first[..len], again[..len_again]);
        let request = Message::parse(&again[..len_again]).expect("STUN");
        for (id, port) in [
            (TransactionId([7; 12]), 1),
            (request.transaction_id(), 4242),
        ] {
            let mut answer = [0; 100];
            let mut builder = Builder::new(&mut answer, Class::Success, Method::BINDING, id);
            builder.xor_address(attr::XOR_MAPPED_ADDRESS, SocketAddr::new(client.ip(), port));
            let len = builder.finish().expect("it fits");
            server.send_to(&answer[..len], client).expect("sent");
        }
    });
    let answer = probe::binding(address, Transport::Udp, Duration::from_secs(5)).expect("answered");
    assert_eq!(answer.mapped.port(), 4242);
    assert!(answer.rtt >= Duration::from_millis(500));
    answering.join().expect("the server's checks passed");
}

/// Runs without a configuration, in a network of its own with nothing but 192.0.2.10 and what the
/// script adds. Returns what it printed and what it logged.
fn first_run(script: &str) -> (String, String) {
    let script = format!(
        "ip link set lo up && ip address add 192.0.2.10/24 dev lo && {script} && exec \"$0\""
    );
    let binary = turnserver(&[]);
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "sh", "-c", &script])
        .arg(binary.get_program())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = Server(command.spawn().expect("unshare is there"));
    let mut lines = Vec::new();
    let output = server.0.stdout.take().expect("piped");
    for line in BufReader::new(output).lines() {
        let line = line.expect("UTF-8");
        let last = line.contains("turnserver init");
        lines.push(line);
        if last {
            break;
        }
    }
    server.signal("-TERM");
    let mut errors = String::new();
    let log = server.0.stderr.as_mut().expect("piped");
    log.read_to_string(&mut errors).expect("UTF-8");
    let status = server.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{errors}");
    (lines.join("\n"), errors)
}

/// Where IPv6 is switched off, [::] can be bound and nothing of it be reached: that is no failure.
#[test]
fn the_first_run_leaves_out_what_this_machine_has_not() {
    let (shown, errors) = first_run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    assert!(
        shown.contains("tcp 192.0.2.10:3478: Binding and"),
        "{shown}"
    );
    assert!(
        !shown.contains("FAILED") && !shown.contains("::1"),
        "{shown}\n{errors}"
    );
    assert!(!shown.contains("firewall"), "{shown}");
}

/// Answers that get lost are what a firewall looks like; a refusal is not.
#[test]
fn the_first_run_suspects_a_firewall_only_where_nothing_answers() {
    let without_route = |port: &str| {
        let (shown, _) = first_run(&format!(
            "ip rule add pref 10 lookup local && ip rule del pref 0 && \
             ip rule add pref 5 ipproto tcp {port} 3478 prohibit"
        ));
        assert!(
            shown.contains("udp 192.0.2.10:3478: Binding and"),
            "{shown}"
        );
        assert!(shown.contains("tcp 192.0.2.10:3478: FAILED"), "{shown}");
        shown
    };
    let lost = without_route("sport");
    assert!(
        lost.contains("firewall") && lost.contains("no answer"),
        "{lost}"
    );
    let refused = without_route("dport");
    assert!(!refused.contains("firewall"), "{refused}");
}

#[test]
fn the_first_run_tests_itself_and_prints_ice_servers() {
    let (shown, errors) = first_run("true");
    for tested in [
        "udp 192.0.2.10:3478: Binding and",
        "tcp 192.0.2.10:3478: Binding and",
    ] {
        assert!(shown.contains(tested), "{shown}\n{errors}");
    }
    assert!(shown.contains("(relayed by 192.0.2.10:"), "{shown}");
    assert!(!shown.contains("FAILED"), "{shown}\n{errors}");
    let (start, end) = (
        shown.find("\n{").expect("JSON"),
        shown.find("\n}").expect("JSON"),
    );
    let json: serde_json::Value = serde_json::from_str(&shown[start..end + 2]).expect("JSON");
    assert_eq!(
        urls(&json),
        [
            "turn:192.0.2.10:3478?transport=udp",
            "turn:192.0.2.10:3478?transport=tcp"
        ]
    );
    let password = json["iceServers"][0]["credential"]
        .as_str()
        .expect("a string");
    assert_eq!(password.len(), 32);
    assert!(
        !errors.contains(password),
        "the log does not hold the password"
    );
}
