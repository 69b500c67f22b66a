//! A network namespace of the test's own. It is anonymous: it ends with its last process.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::tools::{Output, need, run};
use super::wait_until;

/// A namespace with loopback, one interface and a default route, held open by a sleeping process.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

/// The namespace's only address besides loopback.
pub const ADDRESS: &str = "10.77.0.1";

impl Namespace {
    /// Makes one.
    ///
    /// # Panics
    /// When it cannot be made: neither root nor unprivileged user namespaces.
    pub fn new() -> Self {
        let ip = need("ip", "iproute2");
        need("nsenter", "util-linux");
        let script = format!(
            "set -e; {ip} link set lo up; {ip} link add up0 type veth peer name up1; \
             {ip} addr add {ADDRESS}/24 dev up0; {ip} link set up0 up; {ip} link set up1 up; \
             {ip} route add default via 10.77.0.2; exec sleep 600"
        );
        let holder = Command::new(need("unshare", "util-linux"))
            .args(["--map-root-user", "--net", "--", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs");
        let namespace = Self { holder };
        let ready = wait_until(Duration::from_secs(10), || {
            let routes = namespace.run(&[&ip, "route"], Duration::from_secs(5));
            routes.text.contains("default via")
        });
        assert!(ready, "no network namespace: run as root");
        namespace
    }

    /// The command line that runs `command` inside.
    pub fn enter(&self, command: &[&str]) -> Vec<String> {
        let mut line = vec![
            need("nsenter", "util-linux"),
            format!("--target={}", self.holder.id()),
            "--user".to_owned(),
            "--preserve-credentials".to_owned(),
            "--net".to_owned(),
            "--".to_owned(),
        ];
        line.extend(command.iter().map(|&word| word.to_owned()));
        line
    }

    /// Runs a command inside, to its end.
    pub fn run(&self, command: &[&str], limit: Duration) -> Output {
        let line = self.enter(command);
        run(&line.iter().map(String::as_str).collect::<Vec<_>>(), limit)
    }

    /// Starts a command inside; its output goes to `log`.
    pub fn start(&self, command: &[&str], log: &std::path::Path) -> Child {
        let line = self.enter(command);
        let file = std::fs::File::create(log).expect("a log file");
        Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be cloned"))
            .stderr(file)
            .spawn()
            .expect("nsenter runs")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Killing a process that has ended is an error of no interest.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs the test `name` of the calling test binary again, inside a namespace of its own, and
/// returns whether this is that inner run.
///
/// # Panics
/// When the inner run fails.
pub fn inside(name: &str) -> bool {
    const MARK: &str = "TURNSERVER_TEST_INSIDE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let namespace = Namespace::new();
    let this = std::env::current_exe().expect("the test binary");
    let script = format!(
        "{MARK}=1 exec {} --exact {name} --nocapture",
        this.display()
    );
    let output = namespace.run(&["sh", "-c", &script], Duration::from_secs(120));
    assert!(
        output.code == 0 && output.text.contains("1 passed"),
        "inside the namespace:\n{}",
        output.text
    );
    false
}
