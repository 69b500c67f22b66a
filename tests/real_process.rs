//! The process as an operator first meets it: start-up errors, commands, logs, and the first run
//! without a configuration.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::namespace::{ADDRESS, Namespace};
use support::stun::{self, Client, Echo, Wire};
use support::tools::{Output, need, run};
use support::{Config, OTHER_USER, Ports, Server, USER, binary, wait_until};

/// Runs the server with a configuration text that it must refuse, and returns what it said.
fn refused(text: &str, directory: &Path) -> String {
    let file = directory.join("stunner.toml");
    fs::write(&file, text).expect("config written");
    let output = run(
        &[binary(), "--config", &file.to_string_lossy()],
        Duration::from_secs(10),
    );
    assert_ne!(output.code, 0, "{}", output.text);
    assert_ne!(output.code, 124, "it served:\n{}", output.text);
    output.text
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    support::write_certificate(directory.path());
    directory
}

fn udp_client(server: &Server, user: (&str, &str)) -> Client {
    Client::new(Wire::udp(server.udp()).expect("a socket"), user)
}

mod start_up {
    use super::*;

    fn assert_says(text: &str, words: &[&str]) {
        let lower = text.to_lowercase();
        for word in words {
            assert!(
                lower.contains(&word.to_lowercase()),
                "no {word:?} in:\n{text}"
            );
        }
    }

    #[test]
    fn a_second_server_on_the_same_ports_is_refused() {
        let server = Server::start();
        let directory = directory();
        let config = Config {
            relay_ports: Some((60_000, 60_100)),
            ..server.config.clone()
        };
        let said = refused(&config.render(&server.ports), directory.path());
        assert_says(
            &said,
            &["could not bind", &server.ports.plain().to_string()],
        );
        // The first one was not robbed of its clients.
        for _ in 0..20 {
            assert!(stun::binding_udp(server.udp(), Duration::from_secs(1)).is_some());
        }
    }

    #[test]
    fn a_port_that_another_program_holds_is_named() {
        let ports = Ports::claim();
        let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports.plain())).expect("it is free");
        let said = refused(&Config::default().render(&ports), directory().path());
        assert_says(
            &said,
            &[
                "could not bind",
                "in use",
                "udp",
                &ports.plain().to_string(),
            ],
        );

        let ports = Ports::claim();
        let _tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.plain())).expect("it is free");
        let said = refused(&Config::default().render(&ports), directory().path());
        assert_says(
            &said,
            &[
                "could not bind",
                "in use",
                "tcp",
                &ports.plain().to_string(),
            ],
        );
    }

    #[test]
    fn a_limit_of_open_files_that_is_too_low_is_named_with_what_it_takes() {
        // 100 ports on each of two addresses, and what a server has open itself.
        let ports = Ports::claim();
        let relay_ports = Some((ports.relay().0, ports.relay().0 + 99));
        let limits = Config::default().limits;
        for (open_files, limits, warned) in [
            (300, limits.clone(), true),
            (328, limits.clone(), false),
            // Both families for each.
            (300, format!("{limits}allocations = 86\n"), false),
            (299, format!("{limits}allocations = 86\n"), true),
        ] {
            let config = Config {
                relay_ports,
                limits,
                ..Config::default()
            };
            let directory = directory();
            let file = directory.path().join("stunner.toml");
            fs::write(&file, config.render(&ports)).expect("config written");
            let log = fs::File::create(directory.path().join("log")).expect("log file");
            let mut server = Command::new(need("prlimit", "util-linux"))
                .arg(format!("--nofile={open_files}"))
                .args([binary(), "--config", &file.to_string_lossy()])
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a file can be cloned"))
                .stderr(log)
                .spawn()
                .expect("prlimit starts");
            let said = || fs::read_to_string(directory.path().join("log")).unwrap_or_default();
            let up = wait_until(Duration::from_secs(15), || said().contains("serving"));
            server.kill().expect("it runs");
            server.wait().expect("a child can be waited for");
            assert!(up, "{}", said());
            let wanted = if open_files == 299 { 300 } else { 328 };
            assert_eq!(
                said().contains(&format!("LimitNOFILE={wanted}")),
                warned,
                "{open_files}:\n{}",
                said()
            );
            assert_eq!(said().contains("the limit of open files"), warned);
        }
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let ports = Ports::claim();
        let text = Config::default()
            .render(&ports)
            .replace("127.0.0.1:", "192.0.2.55:");
        let said = refused(&text, directory().path());
        assert_says(&said, &["192.0.2.55", "interface"]);
    }

    #[test]
    fn a_relay_address_of_another_machine_is_named() {
        let ports = Ports::claim();
        let text = Config::default().render(&ports).replace(
            "[relay]\naddress = [\"127.0.0.1\"",
            "[relay]\naddress = [\"192.0.2.55\"",
        );
        assert!(text.contains("192.0.2.55"));
        let said = refused(&text, directory().path());
        assert_says(&said, &["192.0.2.55"]);
    }

    #[test]
    fn a_privileged_port_needs_a_privilege() {
        // Inside a namespace, where the range of privileged ports is what the kernel starts with,
        // and as a user without any capability.
        let namespace = Namespace::new();
        let directory = directory();
        let file = directory.path().join("stunner.toml");
        let ports = Ports::claim();
        let text = Config {
            tls: false,
            ..Config::default()
        };
        let text = text
            .render(&ports)
            .replace(&format!(":{}", ports.plain()), ":99");
        fs::write(&file, text).expect("config written");
        let output = namespace.run(
            &[
                &need("setpriv", "util-linux"),
                "--bounding-set=-all",
                "--inh-caps=-all",
                "--no-new-privs",
                binary(),
                "--config",
                &file.to_string_lossy(),
            ],
            Duration::from_secs(10),
        );
        assert!(output.code != 0 && output.code != 124, "{}", output.text);
        assert_says(&output.text, &["99", "CAP_NET_BIND_SERVICE"]);
    }

    #[test]
    fn no_credentials_no_service() {
        let ports = Ports::claim();
        let config = Config {
            users: Vec::new(),
            secrets: Vec::new(),
            ..Config::default()
        };
        let said = refused(&config.render(&ports), directory().path());
        assert_says(&said, &["credentials", "[auth"]);
    }

    #[test]
    fn every_mistake_is_shown_at_once() {
        let ports = Ports::claim();
        let text = Config::default()
            .render(&ports)
            .replace("level = ", "levle = ")
            + "[drain]\ndeadline = \"soon\"\n";
        let said = refused(&text, directory().path());
        assert_says(&said, &["levle", "level", "deadline", "stunner.toml:"]);
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let ports = Ports::claim();
        let directory = directory();
        fs::remove_file(directory.path().join("cert.pem")).expect("it was there");
        let said = refused(&Config::default().render(&ports), directory.path());
        assert_says(&said, &["cert.pem"]);
    }
}

mod commands {
    use super::*;

    #[test]
    fn ping_tells_by_its_exit_code() {
        let server = Server::start();
        let address = server.udp().to_string();
        let output = run(&[binary(), "ping", &address], Duration::from_secs(10));
        assert_eq!(output.code, 0, "{}", output.text);
        let ports = Ports::claim();
        let address = format!("127.0.0.1:{}", ports.plain());
        let output = run(&[binary(), "ping", &address], Duration::from_secs(20));
        assert_eq!(output.code, 1, "{}", output.text);
    }

    #[test]
    fn check_shows_what_is_in_force_without_secrets() {
        let directory = directory();
        let ports = Ports::claim();
        let file = directory.path().join("stunner.toml");
        let config = Config {
            relay_ports: Some((50_000, 50_099)),
            ..Config::default()
        };
        fs::write(&file, config.render(&ports)).expect("config written");
        let output = check(&file);
        assert_eq!(output.code, 0, "{}", output.text);
        // 100 ports on two addresses.
        assert!(output.text.contains("200"), "{}", output.text);
        assert!(output.text.contains("max_lifetime"), "{}", output.text);
        for secret in [support::SECRET, USER.1, OTHER_USER.1] {
            assert!(!output.text.contains(secret), "{}", output.text);
        }
    }

    #[test]
    fn the_configuration_of_the_readme_is_valid() {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let readme = fs::read_to_string(readme).expect("readable");
        let example = readme.split("```toml\n").nth(1).expect("an example");
        let example = example.split("```").next().expect("its end");
        let directory = directory();
        let file = directory.path().join("stunner.toml");
        fs::write(&file, example).expect("config written");
        let output = check(&file);
        assert_eq!(output.code, 0, "{}", output.text);
    }

    fn check(file: &Path) -> Output {
        run(
            &[binary(), "check", "--config", &file.to_string_lossy()],
            Duration::from_secs(10),
        )
    }

    #[test]
    fn the_container_configuration_is_valid_and_says_who_may_allocate() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/container.toml");
        let without = check(&file);
        assert_eq!(without.code, 0, "{}", without.text);
        let said = "only devices that `[signaling]` pairs may allocate";
        assert!(without.text.contains(said), "{}", without.text);
        let with_users = format!(
            "TURNSERVER_USERS=user-1:pass-1 {} check --config {}",
            binary(),
            file.display()
        );
        let output = run(&["sh", "-c", &with_users], Duration::from_secs(10));
        assert_eq!(output.code, 0, "{}", output.text);
        assert!(!output.text.contains(said), "{}", output.text);
    }

    /// The health check asks what the configuration says, not what the image came with.
    #[test]
    fn the_container_is_healthy_whatever_its_configuration() {
        let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
        let dockerfile = fs::read_to_string(dockerfile).expect("readable");
        let words = |keyword: &str| -> Vec<String> {
            let line = dockerfile.lines().find(|line| line.starts_with(keyword));
            let line = line.unwrap_or_else(|| panic!("no {keyword}"));
            serde_json::from_str(&line[line.find('[').expect("a list")..]).expect("JSON")
        };
        let mut serve = words("ENTRYPOINT");
        serve.extend(words("CMD"));
        let healthy = words("HEALTHCHECK");

        let namespace = Namespace::new();
        let directory = tempfile::tempdir().expect("a temporary directory");
        support::write_certificate(directory.path());
        let file = directory.path().join("stunner.toml");
        let inside = |words: &[String]| -> Vec<String> {
            let path = |word: &String| match word.as_str() {
                "/turnserver" => binary().to_owned(),
                "/etc/turnserver/stunner.toml" => file.display().to_string(),
                other => other.to_owned(),
            };
            let mut line = vec![
                "env".to_owned(),
                "TURNSERVER_USERS=user-1:pass-1".to_owned(),
            ];
            line.extend(words.iter().map(path));
            line
        };
        let (serve, healthy) = (inside(&serve), inside(&healthy));
        let check = || {
            let line: Vec<&str> = healthy.iter().map(String::as_str).collect();
            namespace.run(&line, Duration::from_secs(10))
        };
        let own = "realm = \"example.org\"\n[[listener]]\nprotocol = \"tls\"\n\
                   address = \"127.0.0.1:443\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
        for text in [include_str!("../config/container.toml"), own] {
            fs::write(&file, text).expect("written");
            assert_eq!(check().code, 1, "nothing runs yet");
            let line: Vec<&str> = serve.iter().map(String::as_str).collect();
            let log = directory.path().join("log");
            let mut server = namespace.start(&line, &log);
            let up = wait_until(Duration::from_secs(15), || check().code == 0);
            // Killing a process that has ended is an error of no interest.
            let _ = server.kill();
            let _ = server.wait();
            assert!(
                up,
                "{}\n{}",
                check().text,
                fs::read_to_string(&log).unwrap_or_default()
            );
        }
    }

    #[test]
    fn secrets_come_from_the_environment() {
        let directory = directory();
        let ports = Ports::claim();
        let file = directory.path().join("stunner.toml");
        fs::write(&file, Config::default().render(&ports)).expect("config written");
        let mint = format!(
            "TURNSERVER_SECRETS=other-secret {} credentials --config {} --user alice",
            binary(),
            file.display()
        );
        let output = run(&["sh", "-c", &mint], Duration::from_secs(10));
        assert_eq!(output.code, 0, "{}", output.text);
        let printed: serde_json::Value =
            serde_json::from_str(&output.stdout).expect("it prints JSON");
        let servers = printed.get("iceServers").unwrap_or(&printed);
        let username = servers[0]["username"].as_str().expect("a username");
        let credential = servers[0]["credential"].as_str().expect("a credential");

        let server = Server::with(Config {
            secrets: vec!["other-secret".to_owned()],
            ..Config::default()
        });
        udp_client(&server, (username, credential)).allocated();
        let server = Server::start();
        let refused = udp_client(&server, (username, credential)).allocate();
        assert_eq!(refused.error(), Some(401));
    }
}

mod logs {
    use super::*;

    #[test]
    fn one_json_line_for_an_ended_allocation() {
        let server = Server::start();
        let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
        let mut client = udp_client(&server, USER);
        let relayed = client.allocated();
        assert!(client.permit(echo.address).is_success());
        assert!(client.echoes(echo.address, b"one packet each way"));
        client.refresh(0);
        server.wait_for_log("deleted");
        let log = server.log();
        for line in log.lines() {
            serde_json::from_str::<serde_json::Value>(line)
                .unwrap_or_else(|_| panic!("not JSON: {line}"));
        }
        let ends: Vec<_> = log
            .lines()
            .filter(|line| line.contains("deleted"))
            .collect();
        assert_eq!(ends.len(), 1, "{log}");
        assert!(
            ends[0].contains(USER.0) && ends[0].contains(&relayed.to_string()),
            "{log}"
        );
        assert!(
            !log.contains(USER.1) && !log.contains(support::SECRET),
            "{log}"
        );
    }
}

mod first_run {
    use super::*;

    /// Ends the server by its process id when the test is over.
    struct Ended(std::process::Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            // Killing a process that has ended is an error of no interest.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn without_a_configuration_it_prints_ice_servers_that_work() {
        let namespace = Namespace::new();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("log");
        // In an empty directory: a stunner.toml that lies about must not matter.
        let command = format!("cd {} && exec {}", directory.path().display(), binary());
        let _server = Ended(namespace.start(&["sh", "-c", &command], &log));
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let printed = wait_until(Duration::from_secs(20), || ice_servers(&said()).is_some());
        assert!(printed, "no iceServers in:\n{}", said());
        let servers = ice_servers(&said()).expect("found above");
        let username = servers[0]["username"].as_str().expect("a username");
        let credential = servers[0]["credential"].as_str().expect("a credential");
        assert!(credential.len() >= 16, "a password that nobody guesses");
        let urls = servers[0]["urls"].to_string();
        for transport in ["udp", "tcp"] {
            let url = format!("turn:{ADDRESS}:3478?transport={transport}");
            assert!(urls.contains(&url), "no {url} in {urls}");
        }

        // Client to client: the relay's own addresses are private here and reachable all the
        // same, because they are live relayed transport addresses.
        let uclient = need("turnutils_uclient", "coturn");
        for transport in [&[][..], &["-t"]] {
            let mut command = vec![
                uclient.as_str(),
                "-u",
                username,
                "-w",
                credential,
                "-n",
                "10",
                "-m",
                "2",
                "-c",
                "-y",
            ];
            command.extend_from_slice(transport);
            command.push(ADDRESS);
            let output = namespace.run(&command, Duration::from_secs(60));
            assert!(
                output.text.contains("tot_send_msgs=20, tot_recv_msgs=20"),
                "{}\n{}",
                output.text,
                said()
            );
        }
    }

    /// The first JSON value with `urls` in what was printed.
    fn ice_servers(text: &str) -> Option<serde_json::Value> {
        text.char_indices()
            .filter(|(_, c)| matches!(c, '[' | '{'))
            .find_map(|(at, _)| {
                let mut values = serde_json::Deserializer::from_str(&text[at..])
                    .into_iter::<serde_json::Value>();
                let value = values.next()?.ok()?;
                let servers = value.get("iceServers").unwrap_or(&value);
                servers.get(0)?.get("urls")?;
                Some(servers.clone())
            })
    }
}
