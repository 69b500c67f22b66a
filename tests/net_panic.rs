//! A shard that panics ends the process at once. Half a server that hangs would be worse.

mod net_support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use net_support::{Client, PATIENCE, Server, Setup, eventually};

/// Set in the process that is to die.
const VICTIM: &str = "TURNSERVER_TEST_PANIC";

/// SIGABRT.
const ABORTED: i32 = 6;

#[test]
fn a_panic_aborts_the_process() {
    if std::env::var_os(VICTIM).is_some() {
        let server = Server::start(Setup {
            threads: 2,
            audit: Arc::new(|_| panic!("on purpose")),
            ..Setup::default()
        });
        let mut client = Client::udp(server.address(0));
        client.allocate();
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(PATIENCE * 2);
        return;
    }
    let mut victim = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_panic_aborts_the_process"])
        .env(VICTIM, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut status = None;
    eventually("it dies", || {
        status = victim.try_wait().expect("a child");
        status.is_some()
    });
    let signal = status.and_then(|status| status.signal());
    assert_eq!(signal, Some(ABORTED), "{status:?}");
}
