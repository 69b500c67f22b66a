//! The programs in `examples` do what they say.

mod support;

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use support::signal;

/// A running example. Ended when dropped.
struct Example {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Example {
    fn drop(&mut self) {
        // Killing a process that has ended is an error of no interest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        // `cargo test` builds them beside the binaries.
        let program = Path::new(env!("CARGO_BIN_EXE_turnctl"));
        let program = program.with_file_name("examples").join(name);
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                let program = program.display();
                panic!("{program}: {error}; build it by `cargo build --examples`")
            });
        let output = child.stdout.take().expect("piped");
        Self {
            input: child.stdin.take(),
            child,
            lines: BufReader::new(output).lines(),
        }
    }

    /// What follows `start` in the next line that begins so.
    fn after(&mut self, start: &str) -> String {
        let mut lines = self.lines.by_ref().map(|line| line.expect("UTF-8"));
        lines
            .find_map(|line| line.strip_prefix(start).map(str::to_owned))
            .unwrap_or_else(|| panic!("it never says {start:?}"))
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn two_devices_say_hello_through_an_embedded_endpoint() {
    let mut endpoint = Example::start("signaling", &["127.0.0.1:0"]);
    let urls = endpoint.after("pairing on http://");
    let (at, _) = urls.split_once('/').expect("a path");
    let mut one = Example::start("connect", &[at, "the key of the examples", "udp"]);
    // The first one may not wait yet.
    let mut tries = (0..1000).map(|_| Example::start("connect", &[at, "the key of the examples"]));
    let connected = |two: &mut Example| match two.lines.next() {
        Some(line) => line.expect("UTF-8").starts_with("connected: "),
        None => false,
    };
    let mut two = tries
        .find_map(|mut two| connected(&mut two).then_some(two))
        .expect("connected");
    one.after("connected: ");
    one.after("hello");
    two.after("hello");
    signal(one.child.id(), "INT");
    assert_eq!((one.exit_code(), two.exit_code()), (Some(0), Some(0)));
    drop(endpoint.input.take());
    endpoint.after("1 pairs were made");
    assert_eq!(endpoint.exit_code(), Some(0));
}
