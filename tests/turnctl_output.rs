//! Standard output and error that nobody reads, or that are full: what is only told may be lost,
//! and a result that is lost is an error, without a panic.

mod support;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use support::turnctl::{PATIENCE, command, pairing, start};
use support::{Server, wait_until};

type Lost = (&'static str, fn() -> Stdio);

/// Writing there fails, each for another reason.
const LOST: [Lost; 2] = [("full", full), ("unread", unread)];

fn full() -> Stdio {
    let device = OpenOptions::new().write(true).open("/dev/full");
    device.expect("a device that is full").into()
}

fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// The exit code with this standard output, and what was said on standard error.
fn told(command: &mut Command, output: Stdio) -> (Option<i32>, String) {
    let child = command.stdin(Stdio::null()).stdout(output);
    let child = child.stderr(Stdio::piped()).spawn().expect("it starts");
    let done = child.wait_with_output().expect("it ends");
    let error = String::from_utf8(done.stderr).expect("UTF-8");
    (done.status.code(), error)
}

#[test]
fn the_exit_code_is_the_same_when_nobody_can_be_told() {
    let server = start();
    let at = pairing(&server);
    for (what, error) in LOST {
        for json in [&[][..], &["--json"]] {
            let mut lonely = command(&[&["connect", &at, "nobody"][..], json].concat());
            let status = lonely.stderr(error()).status().expect("it runs");
            assert_eq!(status.code(), Some(3), "{what} {json:?}");
        }
        let mut misspelt = command(&["connect", &at, ""]);
        let status = misspelt.stderr(error()).status().expect("it runs");
        assert_eq!(status.code(), Some(2), "{what}");
    }
}

#[test]
fn data_goes_through_and_a_host_stays_when_nobody_can_be_told() {
    let server = start();
    let at = pairing(&server);
    for (what, error) in LOST {
        let mut host = command(&["host", &at, what]);
        let mut host = host.stdin(Stdio::null()).stderr(error()).spawn();
        let host = host.as_mut().expect("it starts");
        // It cannot say when it is registered.
        let guest = || {
            let mut guest = command(&["connect", &at, what]);
            let mut guest = guest.stderr(error()).spawn().expect("it starts");
            let mut input = guest.stdin.take().expect("piped");
            input.write_all(b"hello").expect("taken");
            drop(input);
            guest.wait().expect("a child").code()
        };
        for turn in 0..2 {
            let mut code = guest();
            while turn == 0 && code == Some(3) {
                code = guest();
            }
            assert_eq!(code, Some(0), "{what}, guest {turn}");
            let mut heard = [0; 5];
            let output = host.stdout.as_mut().expect("piped");
            output.read_exact(&mut heard).expect("it is heard");
            assert_eq!(&heard, b"hello");
        }
        assert_eq!(host.try_wait().expect("a child"), None, "it stays");
        host.kill().expect("it runs");
        host.wait().expect("a child");
    }
}

#[test]
fn a_result_that_is_lost_is_an_error_and_no_panic() {
    let server = start();
    let at = pairing(&server);
    let turn = server.udp().to_string();
    let bench = [
        "bench",
        &turn,
        "--mode",
        "binding",
        "--duration",
        "0.1",
        "--quiet",
    ];
    for arguments in [&["key"][..], &["nat", &at], &["nat", &at, "--json"], &bench] {
        let (code, error) = told(&mut command(arguments), full());
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        let lines: Vec<_> = error.lines().collect();
        let [line] = lines[..] else {
            panic!("{arguments:?}: {error}");
        };
        assert!(line.starts_with("error: standard output: "), "{line}");
        // Who has stopped to read wants to hear no more.
        let (code, error) = told(&mut command(arguments), unread());
        assert_eq!((code, error.as_str()), (Some(1), ""), "{arguments:?}");
    }
}

#[test]
fn the_servers_own_commands_do_not_panic_either() {
    let turnserver = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnserver"));
        command.args(arguments).env("TURNSERVER_USERS", "a:b");
        command
    };
    for arguments in [&["check"][..], &["credentials"]] {
        let (code, error) = told(&mut turnserver(arguments), full());
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        assert!(error.starts_with("error: standard output: "), "{error}");
        let (code, error) = told(&mut turnserver(arguments), unread());
        assert_eq!((code, error.as_str()), (Some(1), ""), "{arguments:?}");
    }
    let server = start();
    let udp = server.udp().to_string();
    for (what, lost) in LOST {
        // The exit code is the answer.
        let (code, error) = told(&mut turnserver(&["ping", &udp]), lost());
        assert_eq!((code, error.as_str()), (Some(0), ""), "{what}");
        let mut wrong = turnserver(&["check", "/nowhere.toml"]);
        let status = wrong.stderr(lost()).status().expect("it runs");
        assert_eq!(status.code(), Some(1), "{what}");
    }
}

#[test]
fn a_server_serves_although_nobody_reads_its_log() {
    let mut server = Server::start();
    for (what, lost) in LOST {
        server.kill();
        let mut again = Command::new(support::binary());
        again.arg("--config").arg(server.config_file());
        let mut again = again.stderr(lost()).spawn().expect("it starts");
        let mut ping = Command::new(support::binary());
        ping.arg("ping").arg(server.udp().to_string());
        ping.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(
            wait_until(PATIENCE, || ping.status().expect("it runs").success()),
            "{what}"
        );
        support::signal(again.id(), "TERM");
        let status = again.wait().expect("a child");
        assert_eq!(status.code(), Some(0), "{what}");
    }
}
