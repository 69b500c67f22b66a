//! All of it under pressure.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Config, Server, tls, wait_until};

fn healthy(server: &Server) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(server.ops())?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    ask().is_ok_and(|reply| reply.starts_with("HTTP/1.1 200 "))
}

#[test]
fn idle_connections_do_not_keep_the_health_check_out() {
    let server = Server::with(Config {
        ops: true,
        ..Config::default()
    });
    assert!(healthy(&server));
    let before = server.descriptors();
    // More than are served at a time; half of them have begun a request.
    let idle: Vec<TcpStream> = (0..100)
        .map(|index| {
            let mut stream = TcpStream::connect(server.ops()).expect("connected");
            if index % 2 == 0 {
                stream
                    .write_all(b"GET /metrics HTTP/1.1\r\n")
                    .expect("sent");
            }
            stream
        })
        .collect();
    assert!(server.descriptors() <= before + 64 + 8);
    assert!(wait_until(Duration::from_secs(60), || healthy(&server)));
    // The server closed them, not we.
    let closed = idle.into_iter().all(|mut stream| {
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).expect("set");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).is_ok()
    });
    assert!(closed, "{}", server.log());
}

#[test]
fn a_certificate_that_can_not_be_used_is_named_at_every_reload() {
    let server = Server::start();
    let good = crate::support::write_certificate(server.dir.path());
    let serves = || tls::binding(server.tls(), &good, rustls::ALL_VERSIONS);
    assert!(wait_until(Duration::from_secs(10), || serves().is_ok()));
    let path = server.dir.path().join("key.pem");
    let key = fs::read(&path).expect("readable");
    // At once, so that nobody finds half of it.
    let replace = |content: &[u8]| {
        let beside = path.with_extension("new");
        fs::write(&beside, content).expect("written");
        fs::rename(&beside, &path).expect("renamed");
    };
    let all_complaints = || server.log().matches("can not be used").count();
    // The new key may have been found without its certificate.
    let before = all_complaints();
    let complaints = || all_complaints() - before;

    replace(b"nothing");
    assert!(wait_until(Duration::from_secs(10), || complaints() == 1));
    server.signal("HUP");
    assert!(wait_until(Duration::from_secs(10), || complaints() == 2));
    assert_eq!(serves(), Ok(()), "the former certificate stays");

    // No signal is needed for the end of the trouble.
    replace(&key);
    let log = || server.log().matches("certificate reloaded").count();
    assert!(wait_until(Duration::from_secs(10), || log() >= 2));
    assert_eq!(complaints(), 2);
}
