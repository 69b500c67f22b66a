//! The realm, users, secrets and certificates, also those in files of their own.

use std::path::Path;

use turnserver::config::{self, Overrides};
use turnserver::server;

use super::{MACHINE, errors, one, with};

#[test]
fn realm() {
    let long = format!("realm = \"{}\"\nauth.secrets = [\"s\"]", "é".repeat(128));
    let found = errors(&long).briefs();
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("128 characters, at most 127"));
    let fits = long.replace("éé", "é");
    assert!(config::load(&fits, Path::new("c"), &Overrides::none(), &MACHINE).is_ok());
    for bad in ["", "a\\\"b", "a\\nb"] {
        let found = errors(&format!("realm = \"{bad}\"\nauth.secrets = [\"s\"]")).briefs();
        assert_eq!(
            (found.len(), found[0].place.as_str()),
            (1, "stunner.toml:1:9"),
            "{bad}"
        );
    }
}

#[test]
fn certificates() {
    let listener = |protocol: &str, lines: &str| {
        format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:9\"\n{lines}")
    };
    let both = "certificate = \"c.pem\"\nkey = \"k.pem\"";
    one(
        &listener("tls", ""),
        ":3:1",
        "no certificate",
        "certificate = \"cert.pem\"",
    );
    one(
        &listener("tls", "certificate = \"c.pem\""),
        ":6:15",
        "but no `key`",
        "key = \"key.pem\"",
    );
    one(
        &listener("tcp", "key = \"k.pem\""),
        ":6:7",
        "but no `certificate`",
        "certificate = \"cert.pem\"",
    );
    one(
        &listener("udp", both),
        ":6:15",
        "no use for a certificate",
        "tls",
    );
}

#[test]
fn certificate_files_must_be_there_and_go_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("stunner.toml");
    let listener = |protocol: &str| {
        with(&format!(
            "[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:9\"\n\
             certificate = \"c.pem\"\nkey = \"k.pem\""
        ))
    };
    let one = |protocol: &str, place: &str, message: &str| {
        std::fs::write(&file, listener(protocol)).expect("writable");
        let errors = server::load(Some(&file), &Overrides::none()).expect_err("it is unusable");
        let found = errors.briefs();
        assert_eq!(found.len(), 1, "{errors}");
        assert!(found[0].message.contains(message), "{errors}");
        assert!(found[0].place.ends_with(place), "{errors}");
        assert!(found[0].help.is_some(), "{errors}");
    };
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("writable");
    };
    // On udp the files do not matter.
    one("udp", "stunner.toml:6:15", "no use for a certificate");
    write("k.pem", "");
    one("tls", "stunner.toml:6:15", "c.pem: there is no such file");
    let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let (first, second) = (made(), made());
    write("c.pem", "nonsense");
    write("k.pem", &first.signing_key.serialize_pem());
    one("tls", "stunner.toml:6:15", "holds no certificate");
    write("c.pem", &second.cert.pem());
    one(
        "tls",
        "stunner.toml:7:7",
        "is not the key of the certificate",
    );
    write("k.pem", &second.cert.pem());
    one("tcp", "stunner.toml:7:7", "holds no private key");
    write("k.pem", &second.signing_key.serialize_pem());
    assert!(server::load(Some(&file), &Overrides::none()).is_ok());
}

/// RFC 8265 section 4.2: what has no OpaqueString form could never be sent by a client.
#[test]
fn names_passwords_and_realms_must_have_an_opaque_form() {
    let user = |lines: &str, place: &str, message: &str| {
        let text = format!("realm = \"r\"\n[auth.users]\n{lines}");
        let errors = errors(&text);
        let found = errors.briefs();
        assert_eq!(found.len(), 1, "{errors}");
        assert!(found[0].message.contains(message), "{errors}");
        assert_eq!(found[0].place, format!("stunner.toml:{place}"), "{errors}");
    };
    user("\"al\\tice\" = \"pass\"", "3:1", "control character");
    user("alice = \"pass\\n\"", "3:9", "control character");
    user("\"a\\u200bb\" = \"pass\"", "3:1", "RFC 8265");
    user("alice = \"pass\\ufdd0\"", "3:9", "RFC 8265");
    // One name in two spellings.
    user(
        "\"Zo\\u00eb\" = \"a\"\n\"Zoe\\u0308\" = \"b\"",
        "3:1",
        "is listed twice",
    );
    let realm = errors("realm = \"a\\u200bb\"\nauth.secrets = [\"s\"]").briefs();
    assert_eq!(realm.len(), 1);
    assert_eq!(realm[0].place, "stunner.toml:1:9");
    assert!(realm[0].message.contains("RFC 8265"), "{realm:?}");
}

#[test]
fn what_everybody_knows_is_no_secret() {
    let commented = [
        (
            "# secrets = [\"fill in a long random secret\"]",
            "secrets = [\"fill in a long random secret\"]",
        ),
        (
            "# users = { alice = \"her password\", bob = \"his password\" }",
            "users = { alice = \"her password\", bob = \"his password\" }",
        ),
    ];
    for (before, after) in commented {
        assert!(config::DEFAULT_FILE.contains(before));
        let errors = errors(&config::DEFAULT_FILE.replace(before, after));
        for found in errors.briefs() {
            assert!(found.message.contains("placeholder"), "{errors}");
        }
    }
    one(
        "auth.secrets_file = \"x\"",
        ":3:21",
        "there is no such file",
        "relative to",
    );
}

#[test]
fn files_of_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secrets");
    let load = |held: &[u8]| {
        std::fs::write(&file, held).expect("writable");
        let text = "realm = \"r\"\nauth.secrets_file = \"secrets\"\n";
        let path = dir.path().join("stunner.toml");
        config::load(text, &path, &Overrides::none(), &MACHINE)
    };
    let fails = |held: &[u8], message: &str| {
        let found = load(held).expect_err("it is unusable").briefs();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].place.ends_with("stunner.toml:2:21"), "{found:?}");
        assert!(found[0].message.contains(message), "{found:?}");
    };
    assert!(load(b"# a comment\n\n one-secret \r\n").is_ok());
    fails(b"# a comment\n\n", "there is none in it");
    fails(b"good\nfill in a long random secret\n", "line 2 of ");
    fails(b"\xff\n", "it is not text");
}

#[test]
fn credentials() {
    let case = |lines: &str, message, help| {
        let found = errors(&format!("realm = \"r\"\n[auth]\n{lines}")).briefs();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains(message), "{found:?}");
        assert!(
            found[0].help.as_deref().is_some_and(|h| h.contains(help)),
            "{found:?}"
        );
    };
    case("secrets = [\"\"]", "is empty", "openssl");
    case("secrets = []", "no credentials", "[auth.users]");
    case(
        "users = { alice = \"\" }",
        "password of user `alice` is empty",
        "",
    );
    case("users = { \"\" = \"pass\" }", "a username is empty", "");
    case(
        &format!("users = {{ {} = \"pass\" }}", "x".repeat(509)),
        "at most 508 bytes",
        "",
    );
    case(
        "users = { a = \"b\" }\nnonce_key = \"abc\"",
        "not a key of 32 bytes",
        "openssl",
    );
    case(
        "users = { a = \"b\" }\nrest_hash = \"md5\"",
        "\"sha1\", \"sha256\"",
        "rest_hash",
    );
}
