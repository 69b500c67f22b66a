//! Where io_uring is forbidden, as in many containers, the server serves without it.

mod net_support;

use net_support::{Client, Server, Setup, listener, peer, receive_from};
use turnserver::net::{AuditSink, DataPath, NetConfig, Protocol, Serving, bind};

/// Forbids io_uring_setup to this thread and those that it starts, with EPERM: what the
/// seccomp profiles of container runtimes do.
#[allow(unsafe_code)]
fn forbid_io_uring() {
    const IO_URING_SETUP: u32 = 425;
    let (load, jump, give) = (
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        (libc::BPF_RET | libc::BPF_K) as u16,
    );
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(load, 0, 0, 0),
        step(jump, 0, 1, IO_URING_SETUP),
        step(give, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps are valid for reads while the kernel copies them.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ),
        ]
    };
    assert_eq!(results, [0, 0], "{}", std::io::Error::last_os_error());
}

// One test in this file: the filter is for good.
#[test]
fn without_io_uring_the_server_serves_by_other_means() {
    forbid_io_uring();
    let serving = DataPath::Auto.probe().expect("something always serves");
    assert!(matches!(serving, Serving::Mmsg(Some(_))), "{serving}");
    assert!(serving.to_string().contains("forbidden"), "{serving}");
    assert_eq!(DataPath::Mmsg.probe(), Ok(Serving::Mmsg(None)));
    let why = DataPath::IoUring.probe().expect_err("forbidden");
    assert!(why.to_string().contains("seccomp"), "{why}");

    let server = Server::start(Setup {
        listeners: vec![listener(Protocol::Udp, "127.0.0.1:0")],
        data_path: DataPath::Auto,
        ..Setup::default()
    });
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let peer = peer("127.0.0.1");
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    client.send_channel(0x4000, b"up");
    assert_eq!(receive_from(&peer), (b"up".to_vec(), relayed));
    peer.send_to(b"down", relayed).expect("sent");
    assert_eq!(client.receive_channel(), (0x4000, b"down".to_vec()));

    let forced = bind(NetConfig {
        threads: 1,
        data_path: DataPath::IoUring,
        listeners: vec![listener(Protocol::Udp, "127.0.0.1:0")],
        ..NetConfig::default()
    })
    .expect("bound");
    let relays = std::sync::Arc::clone(&server.relays);
    let never = |_| unreachable!("no shard is started");
    let audit: AuditSink = std::sync::Arc::new(|_| {});
    let started = forced.start(never, relays, audit);
    let error = started.err().expect("nothing else was asked for");
    assert!(error.to_string().contains("io_uring"), "{error}");
}
