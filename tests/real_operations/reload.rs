//! Reload, of the configuration and of certificates.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use turnserver::wire::rest_password;

use super::udp_client;
use crate::support::stun::{Client, Echo};
use crate::support::{Config, OTHER_USER, Server, USER, tls, wait_until};

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
    let permit =
        |client: &mut Client, peer: &str| client.permit(peer.parse().expect("an address")).error();
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
    assert!(works("second-secret") && works(crate::support::SECRET));
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
    let new = crate::support::write_certificate(server.dir.path());
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
    let new = crate::support::write_certificate(server.dir.path());
    let served = wait_until(Duration::from_secs(90), || {
        std::thread::sleep(Duration::from_millis(200));
        tls::binding(server.tls(), &new, rustls::ALL_VERSIONS).is_ok()
    });
    assert!(served, "{}", server.log());
}

#[test]
fn a_broken_certificate_changes_nothing() {
    let server = Server::start();
    let good = crate::support::write_certificate(server.dir.path());
    server.signal("HUP");
    let serves = |server: &Server| tls::binding(server.tls(), &good, rustls::ALL_VERSIONS);
    assert!(wait_until(Duration::from_secs(5), || serves(&server).is_ok()));
    fs::write(server.dir.path().join("cert.pem"), "nothing").expect("written");
    server.signal("HUP");
    server.wait_for_log("cert.pem");
    assert_eq!(serves(&server), Ok(()));
}
