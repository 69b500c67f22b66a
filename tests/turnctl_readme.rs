//! The commands of the README that connect two devices, as pasted into a shell. The server's name,
//! ports that this machine may have given away, and how `turnctl` is built and found are other ones.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

use support::turnctl::{Turnctl, pairing, service, start};

const BUILT: &str = "cargo run -q --release --bin turnctl -- ";
const SERVERS: [&str; 2] = ["turn.example.org:8080", "127.0.0.1:8080"];
const SERVED: &str = "127.0.0.1:22";
const FORWARDED: &str = "2222";

/// What the section says: the commands of each block, and those in its text.
fn section() -> (Vec<Vec<String>>, Vec<String>) {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("readable");
    let section = readme.split("\n## Connect two devices\n").nth(1);
    let section = section.and_then(|from| from.split("\n## ").next());
    let (mut blocks, mut text) = (Vec::new(), String::new());
    for (at, part) in section.expect("the section").split("```").enumerate() {
        match part.strip_prefix("sh\n") {
            Some(block) if at % 2 == 1 => blocks.push(block.lines().map(str::to_owned).collect()),
            _ => text.push_str(part),
        }
    }
    let text = text.replace('\n', " ");
    let quoted = text.split('`').skip(1).step_by(2);
    let commands = quoted.filter(|quoted| SERVERS.iter().any(|server| quoted.contains(server)));
    (blocks, commands.map(str::to_owned).collect())
}

/// A directory in which one device runs its commands.
struct Device<'a> {
    directory: PathBuf,
    server: &'a str,
    key: &'a str,
    served: &'a str,
}

impl Device<'_> {
    fn shell(&self, line: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_turnctl"));
        let paths = env::var_os("PATH").unwrap_or_default();
        let own = program.parent().expect("a directory").to_path_buf();
        let paths = env::join_paths([own].into_iter().chain(env::split_paths(&paths)));
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .current_dir(&self.directory)
            .env("PATH", paths.expect("paths"))
            .env("KEY", self.key)
            .env_remove("TURNCTL_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        shell
    }

    /// The line as it stands there, in this test's world. Whole words, once each: an address put in
    /// may begin like one that is looked for.
    fn line(&self, line: &str) -> String {
        let line = line.replace(BUILT, "turnctl ");
        let words = line.split(' ').map(|word| match word {
            word if SERVERS.contains(&word) => self.server,
            SERVED => self.served,
            FORWARDED => "0",
            word => word,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Runs it, with events that can be read. Behind a comment `--json` would be lost.
    fn run(&self, line: &str) -> Turnctl {
        let line = self.line(line.split(" #").next().expect("the first part"));
        assert!(line.starts_with("turnctl "), "{line}");
        Turnctl::spawn(&mut self.shell(&format!("exec {line} --json")))
    }
}

fn echo_a_line() -> std::net::SocketAddr {
    service(|stream| {
        let mut line = String::new();
        let mut reader = BufReader::new(&stream);
        reader.read_line(&mut line).expect("a line");
        (&stream).write_all(line.as_bytes()).expect("taken");
    })
}

#[test]
fn the_commands_of_the_readme_connect_two_devices() {
    let (blocks, in_text) = section();
    let blocks: Vec<Vec<&str>> = blocks
        .iter()
        .map(|block| block.iter().map(String::as_str).collect())
        .collect();
    let [terminals, photo, service] = &blocks[..] else {
        panic!("{blocks:?}");
    };

    let server = start();
    let (at, served) = (pairing(&server), echo_a_line().to_string());
    let directory = tempfile::tempdir().expect("a directory");
    let device = |name: &str, key| {
        let directory = directory.path().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        Device {
            directory,
            server: &at,
            key,
            served: &served,
        }
    };

    // In two terminals.
    let [first, second] = terminals[..] else {
        panic!("{terminals:?}");
    };
    assert!(first.starts_with(BUILT) && second.starts_with(BUILT));
    let (here, there) = (device("here", ""), device("there", ""));
    let mut first = here.run(first);
    first.event("waiting");
    let mut second = there.run(second);
    first.write(b"typed here\n");
    second.write(b"typed there\n");
    first.end_input();
    second.end_input();
    assert_eq!(second.rest(), b"typed here\n");
    assert_eq!(first.rest(), b"typed there\n");
    assert_eq!((first.exit_code(), second.exit_code()), (0, 0));

    // A key is made, and a file sent.
    let [makes_key, sends, receives] = photo[..] else {
        panic!("{photo:?}");
    };
    let made = here.shell(makes_key).output().expect("a shell");
    assert!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout).expect("UTF-8");
    let key = key.trim();
    assert!(key.len() >= 16, "{key}");
    let (here, there) = (device("here", key), device("there", key));
    fs::write(here.directory.join("photo.jpg"), [7; 100_000]).expect("written");
    let mut sends = here.run(sends);
    sends.event("waiting");
    let mut receives = there.run(receives);
    sends.end_input();
    receives.end_input();
    assert_eq!((sends.exit_code(), receives.exit_code()), (0, 0));
    let photo = fs::read(there.directory.join("photo.jpg")).expect("received");
    assert!(photo == [7; 100_000], "{} bytes", photo.len());

    // A port is served, forwarded, and reached without that.
    let [hosts, forwards, uses] = service[..] else {
        panic!("{service:?}");
    };
    let port_used = uses.split(' ').any(|word| word == FORWARDED);
    assert!(port_used && forwards.contains(FORWARDED), "{service:?}");
    let mut host = here.run(hosts);
    host.event("registered");
    let mut forward = there.run(forwards);
    let mut stream = std::net::TcpStream::connect(forward.listening()).expect("it is there");
    stream.write_all(b"through the port\n").expect("taken");
    let answer = io::read_to_string(stream).expect("answered");
    assert_eq!(answer, "through the port\n");

    let [connects, nat] = &in_text[..] else {
        panic!("{in_text:?}");
    };
    fs::write(there.directory.join("request"), "a request\n").expect("written");
    let mut connects = there.run(connects);
    assert_eq!(connects.exit_code(), 0);
    let answer = fs::read_to_string(there.directory.join("answer"));
    assert_eq!(answer.expect("answered"), "a request\n");
    let mut nat = there.run(nat);
    assert_eq!(nat.exit_code(), 0);
}
