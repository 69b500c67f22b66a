//! Running: reload, drain, metrics and health, certificates, also under pressure.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use support::stun::{self, Client, Echo, Wire};
use support::{Config, OTHER_USER, Server, USER, tls, wait_until};
use turnserver::wire::rest_password;

fn udp_client(server: &Server, user: (&str, &str)) -> Client {
    Client::new(Wire::udp(server.udp()).expect("a socket"), user)
}

mod ops {
    use super::*;

    /// One HTTP/1.1 request; status and body.
    pub(super) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(address).ok()?;
        let limit = Some(Duration::from_secs(5));
        stream.set_read_timeout(limit).ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let status = reply.split_whitespace().nth(1)?.parse().ok()?;
        let body = reply.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    fn server() -> Server {
        Server::with(Config {
            ops: true,
            ..Config::default()
        })
    }

    /// The sum of all samples of a metric.
    fn sum(metrics: &str, name: &str) -> f64 {
        let samples = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    #[test]
    fn health_and_readiness() {
        let server = server();
        assert_eq!(
            get(server.ops(), "/healthz").map(|reply| reply.0),
            Some(200)
        );
        assert_eq!(get(server.ops(), "/readyz").map(|reply| reply.0), Some(200));
        assert_eq!(
            get(server.ops(), "/nothing").map(|reply| reply.0),
            Some(404)
        );
    }

    #[test]
    fn off_by_default() {
        let server = Server::start();
        assert!(TcpStream::connect(server.ops()).is_err());
    }

    #[test]
    fn metrics_count_what_happens() {
        let server = server();
        let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
        let mut client = udp_client(&server, USER);
        client.allocated();
        assert!(client.permit(echo.address).is_success());
        for round in 0..20 {
            assert!(client.echoes(echo.address, format!("{round}").as_bytes()));
        }
        assert_eq!(
            udp_client(&server, (USER.0, "wrong")).allocate().error(),
            Some(401)
        );
        client.wire.send(&[0x40, 0, 0, 1, 7]).expect("sent");

        let mut metrics = String::new();
        let counted = wait_until(Duration::from_secs(5), || {
            metrics = get(server.ops(), "/metrics").expect("an answer").1;
            sum(&metrics, "turnserver_dropped_packets_total") >= 1.0
        });
        assert!(counted, "{metrics}");
        assert_eq!(
            sum(&metrics, "turnserver_allocations_active"),
            1.0,
            "{metrics}"
        );
        let relayed = sum(&metrics, "turnserver_relayed_packets_total");
        assert!(relayed >= 40.0, "{relayed} packets:\n{metrics}");

        client.refresh(0);
        let gone = wait_until(Duration::from_secs(5), || {
            metrics = get(server.ops(), "/metrics").expect("an answer").1;
            sum(&metrics, "turnserver_allocations_active") == 0.0
        });
        assert!(gone, "{metrics}");
        assert_prometheus(&metrics);
    }

    /// The text format: HELP and TYPE once for each name, samples that parse, no name or address
    /// of a user anywhere.
    fn assert_prometheus(metrics: &str) {
        let mut names = std::collections::BTreeSet::new();
        for line in metrics.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().expect("a name");
                assert!(names.insert(name.to_owned()), "{name} twice");
                assert!(
                    metrics.contains(&format!("# HELP {name} ")),
                    "no help for {name}"
                );
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let name = sample.split('{').next().expect("a name");
                assert!(names.contains(name), "no type for {name}");
            }
        }
        assert!(names.len() > 5, "{names:?}");
        for secret in [USER.0, OTHER_USER.0, "127.0.0.1"] {
            assert!(!metrics.contains(secret), "{secret} in:\n{metrics}");
        }
    }
}

mod drain {
    use super::*;

    #[test]
    fn an_idle_server_ends_at_once() {
        let mut server = Server::start();
        server.signal("TERM");
        let status = server.wait_for_end(Duration::from_secs(5));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }

    #[test]
    fn allocations_live_on_and_no_new_ones_are_made() {
        let mut server = Server::with(Config {
            ops: true,
            ..Config::default()
        });
        let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
        let mut old = udp_client(&server, USER);
        old.allocated();
        assert!(old.permit(echo.address).is_success());

        server.signal("TERM");
        let mut new = udp_client(&server, OTHER_USER);
        let mut refused = None;
        let drains = wait_until(Duration::from_secs(5), || {
            let reply = new.allocate();
            if reply.is_success() {
                new.refresh(0);
            }
            refused = reply.error();
            refused.is_some()
        });
        assert!(drains && refused == Some(508), "{refused:?}");
        let readiness = ops::get(server.ops(), "/readyz").map(|reply| reply.0);
        assert_eq!(readiness, Some(503), "not ready while draining");
        assert_eq!(
            ops::get(server.ops(), "/healthz").map(|reply| reply.0),
            Some(200)
        );

        assert!(old.refresh(600).is_success());
        assert!(old.echoes(echo.address, b"still there"));
        assert!(server.is_running());
        assert!(old.refresh(0).is_success());
        let status = server.wait_for_end(Duration::from_secs(5));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }

    #[test]
    fn new_clients_are_sent_to_the_sibling() {
        let server = Server::with(Config {
            extra: "[drain]\nalternate = [\"192.0.2.2:3478\"]\n".to_owned(),
            ..Config::default()
        });
        let mut old = udp_client(&server, USER);
        old.allocated();
        server.signal("TERM");
        let mut new = udp_client(&server, OTHER_USER);
        let mut reply = None;
        let redirected = wait_until(Duration::from_secs(5), || {
            let answer = new.allocate();
            if answer.is_success() {
                new.refresh(0);
            }
            let redirected = answer.error() == Some(300);
            reply = Some(answer);
            redirected
        });
        let reply = reply.expect("an answer");
        assert!(redirected, "{:?}", reply.error());
        assert!(reply.integrity_holds(&new.key()), "a 300 must be protected");
        let alternate = reply.get(stun::ALTERNATE_SERVER);
        assert_eq!(alternate, Some(&[0, 1, 0x0D, 0x96, 192, 0, 2, 2][..]));
    }

    #[test]
    fn the_deadline_ends_it() {
        let mut server = Server::with(Config {
            extra: "[drain]\ndeadline = 1\n".to_owned(),
            ..Config::default()
        });
        udp_client(&server, USER).allocated();
        server.signal("TERM");
        let started = Instant::now();
        assert!(server.wait_for_end(Duration::from_secs(10)).is_some());
        assert!(started.elapsed() >= Duration::from_millis(900));
        // The allocation that was cut still has its one line in the log.
        assert!(server.log().contains("shutdown"), "{}", server.log());
    }

    #[test]
    fn interrupt_ends_it_too() {
        let mut server = Server::start();
        server.signal("INT");
        assert!(server.wait_for_end(Duration::from_secs(5)).is_some());
    }
}

mod reload {
    use super::*;

    /// Whether a user can allocate now; leaves nothing behind.
    fn may_allocate(server: &Server, user: (&str, &str)) -> bool {
        let mut client = udp_client(server, user);
        let allowed = client.allocate().is_success();
        if allowed {
            client.refresh(0);
        }
        allowed
    }

    #[test]
    fn a_changed_password_takes_effect_and_calls_live_on() {
        let mut server = Server::start();
        let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
        let mut client = udp_client(&server, USER);
        client.allocated();
        assert!(client.permit(echo.address).is_success());

        server.rewrite(|config| config.users[0].1 = "changed".to_owned());
        server.signal("HUP");
        let changed = wait_until(Duration::from_secs(5), || {
            may_allocate(&server, (USER.0, "changed"))
        });
        assert!(changed, "the new password never worked");
        assert!(!may_allocate(&server, USER), "the old one still does");
        assert!(may_allocate(&server, OTHER_USER), "others are untouched");
        assert!(client.echoes(echo.address, b"alive"), "the call lives on");
    }

    #[test]
    fn users_secrets_and_peers_change_as_one() {
        let mut server = Server::start();
        server.rewrite(|config| {
            config.users.push(("new".to_owned(), "user".to_owned()));
            config.peers = "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.9/32\"]\n".to_owned();
            config.limits = "allocations_per_user = 1\nunauthenticated_replies = 0\n".to_owned();
        });
        server.signal("HUP");
        let added = wait_until(Duration::from_secs(5), || {
            may_allocate(&server, ("new", "user"))
        });
        assert!(added, "the new user never worked");

        let mut client = udp_client(&server, USER);
        client.allocated();
        let permit = |client: &mut Client, peer: &str| {
            client.permit(peer.parse().expect("an address")).error()
        };
        assert_eq!(permit(&mut client, "127.0.0.8:9"), None);
        assert_eq!(permit(&mut client, "127.0.0.9:9"), Some(403));
        assert_eq!(udp_client(&server, USER).allocate().error(), Some(486));
    }

    #[test]
    fn a_file_of_secrets_is_read_again() {
        let mut server = Server::start();
        let path = server.dir.path().join("secrets");
        fs::write(&path, "# the first\nfirst-secret\n").expect("written");
        server.rewrite(|config| config.auth = "secrets_file = \"secrets\"\n".to_owned());
        let works = |secret: &str| {
            // Valid until 2096.
            let name = "4000000000:alice";
            let password = rest_password(secret.as_bytes(), name.as_bytes(), false);
            may_allocate(&server, (name, &password))
        };
        let soon = |secret: &str| wait_until(Duration::from_secs(5), || works(secret));
        assert!(!works("first-secret"));
        server.signal("HUP");
        assert!(soon("first-secret"), "{}", server.log());
        // Both while clients still hold credentials of the old one, then the new one alone.
        fs::write(&path, "second-secret\nfirst-secret\n").expect("written");
        server.signal("HUP");
        assert!(soon("second-secret") && works("first-secret"));
        fs::write(&path, "second-secret\n").expect("written");
        server.signal("HUP");
        assert!(wait_until(Duration::from_secs(5), || !works(
            "first-secret"
        )));
        assert!(works("second-secret") && works(support::SECRET));
        // Without its file nothing changes.
        fs::remove_file(&path).expect("it was there");
        server.signal("HUP");
        server.wait_for_log("cannot take secrets from");
        assert!(works("second-secret"));
    }

    #[test]
    fn a_change_that_the_environment_hides_is_said() {
        let mut server = Server::with(Config {
            environment: vec![("TURNSERVER_SECRETS", "from-outside")],
            ..Config::default()
        });
        server.rewrite(|config| config.secrets = vec!["changed-in-the-file".to_owned()]);
        server.signal("HUP");
        server.wait_for_log("`auth.secrets` in the file is overridden by TURNSERVER_SECRETS");
        assert!(!server.log().contains("from-outside"));
    }

    #[test]
    fn a_bad_file_changes_nothing() {
        let mut server = Server::start();
        let good = fs::read_to_string(server.config_file()).expect("readable");
        fs::write(server.config_file(), good.replace("realm", "relam")).expect("written");
        server.signal("HUP");
        server.wait_for_log("relam");
        assert!(server.is_running());
        assert!(may_allocate(&server, USER));

        // The next good one takes effect.
        server.rewrite(|config| config.users[0].1 = "changed".to_owned());
        server.signal("HUP");
        let changed = wait_until(Duration::from_secs(5), || {
            may_allocate(&server, (USER.0, "changed"))
        });
        assert!(changed);
    }

    #[test]
    fn what_needs_a_restart_is_said() {
        let mut server = Server::start();
        server.rewrite(|config| config.extra = "[runtime]\nthreads = 1\n".to_owned());
        server.signal("HUP");
        server.wait_for_log("restart");
        assert!(server.log().contains("runtime.threads"), "{}", server.log());
    }

    #[test]
    fn a_new_certificate_is_served() {
        let server = Server::start();
        let first = fs::read(server.dir.path().join("cert.pem")).expect("readable");
        let new = support::write_certificate(server.dir.path());
        assert_ne!(
            first,
            fs::read(server.dir.path().join("cert.pem")).expect("readable")
        );
        let reject = tls::binding(server.tls(), &new, rustls::ALL_VERSIONS);
        server.signal("HUP");
        let served = wait_until(Duration::from_secs(5), || {
            tls::binding(server.tls(), &new, rustls::ALL_VERSIONS).is_ok()
        });
        assert!(served, "before the reload: {reject:?}");
        // Both versions of TLS.
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert_eq!(tls::binding(server.tls(), &new, &[version]), Ok(()));
        }
    }

    #[test]
    fn a_certificate_that_changes_is_noticed_without_a_signal() {
        let server = Server::start();
        let new = support::write_certificate(server.dir.path());
        let served = wait_until(Duration::from_secs(90), || {
            std::thread::sleep(Duration::from_millis(200));
            tls::binding(server.tls(), &new, rustls::ALL_VERSIONS).is_ok()
        });
        assert!(served, "{}", server.log());
    }

    #[test]
    fn a_broken_certificate_changes_nothing() {
        let server = Server::start();
        let good = support::write_certificate(server.dir.path());
        server.signal("HUP");
        let serves = |server: &Server| tls::binding(server.tls(), &good, rustls::ALL_VERSIONS);
        assert!(wait_until(Duration::from_secs(5), || serves(&server).is_ok()));
        fs::write(server.dir.path().join("cert.pem"), "nothing").expect("written");
        server.signal("HUP");
        server.wait_for_log("cert.pem");
        assert_eq!(serves(&server), Ok(()));
    }
}

mod pressure {
    use super::*;

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
        let good = support::write_certificate(server.dir.path());
        let serves = || tls::binding(server.tls(), &good, rustls::ALL_VERSIONS);
        assert!(wait_until(Duration::from_secs(10), || serves().is_ok()));
        let path = server.dir.path().join("key.pem");
        let key = fs::read(&path).expect("readable");
        let complaints = || server.log().matches("can not be used").count();

        fs::write(&path, "nothing").expect("written");
        assert!(wait_until(Duration::from_secs(10), || complaints() == 1));
        server.signal("HUP");
        assert!(wait_until(Duration::from_secs(10), || complaints() == 2));
        assert_eq!(serves(), Ok(()), "the former certificate stays");

        // No signal is needed for the end of the trouble.
        fs::write(&path, key).expect("written");
        let log = || server.log().matches("certificate reloaded").count();
        assert!(wait_until(Duration::from_secs(10), || log() >= 2));
        assert_eq!(complaints(), 2);
    }
}

mod restart {
    use super::*;

    #[test]
    fn it_serves_again_right_after_it_was_killed() {
        let mut server = Server::start();
        for _ in 0..5 {
            // Sockets with receives under way, which the kernel takes back last.
            let mut clients: Vec<Client> = (0..8).map(|_| udp_client(&server, USER)).collect();
            clients.iter_mut().for_each(|client| {
                client.allocated();
            });
            server.kill();
            server.start_again();
            server.wait_until_it_answers();
        }
    }

    #[test]
    fn an_address_that_becomes_free_is_waited_for() {
        let mut server = Server::start();
        server.kill();
        let mut others = None;
        assert!(wait_until(Duration::from_secs(5), || {
            others = UdpSocket::bind(server.udp()).ok();
            others.is_some()
        }));
        server.start_again();
        server.wait_for_log("by a server that just ended");
        assert!(server.is_running());
        drop(others);
        server.wait_until_it_answers();
        let waits = server.log().matches("by a server that just ended").count();
        assert_eq!(waits, 1, "said once:\n{}", server.log());
    }
}
