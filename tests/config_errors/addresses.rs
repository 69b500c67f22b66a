//! Addresses, ports and networks: of listeners, the pairing endpoint, the relay and the sibling.

use std::path::Path;

use turnserver::config::{self, Overrides};

use super::{MACHINE, errors, one, with};

#[test]
fn listeners() {
    let udp = "[[listener]]\nprotocol = \"udp\"\naddress = ";
    let case = |address: &str, message, help| {
        one(&format!("{udp}\"{address}\""), ":5:11", message, help);
    };
    case("127.0.0.1", "the port is missing", "\"127.0.0.1:3478\"");
    case("::1", "the port is missing", "\"[::1]:3478\"");
    for (address, fixed) in [
        ("::1:3478", "\"[::1]:3478\""),
        ("2001:db8::7:5000", "\"[2001:db8::7]:5000\""),
        ("2001:db8:0:0:0:0:0:7:5000", "\"[2001:db8::7]:5000\""),
    ] {
        case(address, "needs brackets", fixed);
    }
    case(
        "2001:db8::7",
        "the port is missing",
        "\"[2001:db8::7]:3478\"",
    );
    case(":3478", "the address is missing", "\"0.0.0.0:3478\"");
    case(
        "localhost:3478",
        "must be an IP address and a port",
        "192.0.2.1:3478",
    );
    case("127.0.0.1:70000", "must be an IP address and a port", "");
    case(
        "[::ffff:127.0.0.1]:3478",
        "IPv4 address in IPv6 form",
        "127.0.0.1",
    );
    case("224.0.0.1:3478", "group address", "");
    one(
        &format!("{udp}[]"),
        ":3:1",
        "`listener.address` is empty",
        "all addresses",
    );
    one(
        "[[listener]]\naddress = \"127.0.0.1:1\"",
        ":3:1",
        "no `protocol`",
        "protocol = \"udp\"",
    );
    let twice = format!("{udp}\"127.0.0.1:9\"\n{udp}[\"127.0.0.1:10\", \"127.0.0.1:9\"]");
    one(
        &twice,
        ":8:28",
        "127.0.0.1:9 is listened on twice",
        "remove one",
    );
    let overlap = format!("{udp}[\"0.0.0.0:9\", \"127.0.0.1:9\"]");
    one(
        &overlap,
        ":5:25",
        "127.0.0.1:9 overlaps with 0.0.0.0:9",
        "another port",
    );
    let ops = "[ops]\naddress = \"127.0.0.1:9\"\n[[listener]]\nprotocol = \"tcp\"\naddress = \"0.0.0.0:9\"";
    one(ops, ":7:11", "overlaps", "another port");
}

#[test]
fn the_pairing_endpoint() {
    let section = |lines: &str| format!("[signaling]\n{lines}");
    let at = |lines: &str, place, words: &str, help| one(&section(lines), place, words, help);
    at("adress = \"0.0.0.0:1\"", ":4:1", "unknown key", "address");
    at("address = \"8080\"", ":4:11", "cannot be used", "8080");
    at(
        "address = []",
        ":3:1",
        "`signaling.address` is empty",
        "remove",
    );
    at(
        "certificate = \"c.pem\"",
        ":4:15",
        "[signaling] has a `certificate` but no `key`",
        "key.pem",
    );
    at("stunturn = 1", ":4:12", "true or false", "stunturn = false");
    at(
        "fractal = \"[::]:48800\"",
        ":4:11",
        "clients of Fractal cannot reach",
        "0.0.0.0:48800",
    );
    at(
        "fractal_first = \"0.0.0.0\"",
        ":4:17",
        "port is missing",
        "48801",
    );
    let twice =
        "fractal = \"0.0.0.0:9\"\n[[listener]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:9\"";
    at(twice, ":7:11", "overlaps", "another port");
    at("max_wait = 0", ":4:12", "out of range", "30");
    at("credential_ttl = 0", ":4:18", "out of range", "3600");
    at("pair_lifetime = 0", ":4:17", "out of range", "2592000");
    at("relay_share = 0", ":4:15", "must be 1 to 100", "75");
    at("relay_share = 101", ":4:15", "must be 1 to 100", "75");
    at(
        "allocations_per_source = -1",
        ":4:26",
        "must be 0 or more",
        "128",
    );
    at(
        "bandwidth_per_allocation = \"1M\"",
        ":4:28",
        "a whole number",
        "12500000",
    );
    let twice =
        "address = \"0.0.0.0:9\"\n[[listener]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:9\"";
    at(twice, ":7:11", "overlaps", "another port");
    let twice = "address = [\"0.0.0.0:9\", \"0.0.0.0:9\"]";
    at(twice, ":4:25", "listened on twice", "remove");
}

#[test]
fn addresses_that_do_not_overlap_pass() {
    let text = with(
        "[[listener]]\nprotocol = \"udp\"\naddress = [\"0.0.0.0:9\", \"[::]:9\", \"127.0.0.1:0\"]\n\
         [[listener]]\nprotocol = \"tcp\"\naddress = [\"127.0.0.1:9\", \"127.0.0.1:0\", \"127.0.0.1:0\"]",
    );
    assert!(config::load(&text, Path::new("c"), &Overrides::none(), &MACHINE).is_ok());
}

#[test]
fn relay_addresses() {
    one(
        "[relay]\naddress = \"0.0.0.0\"",
        ":4:11",
        "a wildcard",
        "leave it out",
    );
    one(
        "[relay]\naddress = \"192.0.2.1:99\"",
        ":4:11",
        "a port does not belong here",
        "\"192.0.2.1\"",
    );
    one(
        "[relay]\naddress = \"example.org\"",
        ":4:11",
        "must be an IP address",
        "192.0.2.1",
    );
    one(
        "[relay]\naddress = []",
        ":3:1",
        "`relay.address` is empty",
        "leave the key out",
    );
    one(
        "[relay]\naddress = [\"192.0.2.1\", \"192.0.2.1\"]",
        ":4:25",
        "listed twice",
        "remove",
    );
    one(
        "[relay]\naddress = \"::1\"\nfamilies = \"ipv4\"",
        ":4:11",
        "leaves out",
        "remove",
    );
    one(
        "[relay]\nfamilies = \"inet\"",
        ":4:12",
        "cannot hold \"inet\"",
        "ipv4",
    );
    one("[relay]\nfamilies = []", ":3:1", "is empty", "leave it out");
    one(
        "[relay]\nfamilies = \"ipv6\"",
        ":3:1",
        "no address to relay on was found",
        "address = ",
    );
    one(
        "[relay]\ndefault_family = \"ipv6\"",
        ":4:18",
        "no address of it relays",
        "client",
    );
}

#[test]
fn public_addresses() {
    let case = |address: &str, public: &str, message, help| {
        let lines = format!("[relay]\npublic_address = {public}\naddress = {address}");
        let errors = errors(&with(&lines));
        let briefs = errors.briefs();
        assert_eq!(briefs.len(), 1, "{errors}");
        assert!(briefs[0].message.contains(message), "{errors}");
        assert!(
            briefs[0].help.as_deref().is_some_and(|h| h.contains(help)),
            "{errors}"
        );
    };
    case(
        "\"10.0.0.1\"",
        "\"2001:db8::1\"",
        "no address of this family relays",
        "stands for",
    );
    case(
        "[\"10.0.0.1\", \"10.0.0.2\"]",
        "\"203.0.113.7\"",
        "each needs its own",
        "same length",
    );
    case(
        "[\"10.0.0.1\", \"10.0.0.2\"]",
        "[\"203.0.113.7\", \"203.0.113.7\"]",
        "listed twice",
        "stands for",
    );
    case(
        "\"10.0.0.1\"",
        "[\"203.0.113.7\", \"203.0.113.8\"]",
        "2 public ones",
        "same length",
    );
    case("\"10.0.0.1\"", "\"0.0.0.0\"", "a wildcard", "");
}

#[test]
fn ports() {
    let case = |ports: &str, message| {
        one(
            &format!("[relay]\nports = \"{ports}\""),
            ":4:9",
            message,
            "49152-65535",
        );
    };
    case("1023-2000", "below 1024");
    case("2000", "a hyphen between them");
    case("2000-70000", "ports end at 65535");
    case("3000-2000", "above the second");
    case("a-b", "a hyphen between them");
}

#[test]
fn networks() {
    one(
        "[peers]\ndeny = \"10.0.0.1/8\"",
        ":4:8",
        "bits behind the prefix",
        "\"10.0.0.0/8\" or \"10.0.0.1\"",
    );
    one(
        "[peers]\ndeny = \"10.0.0.0/33\"",
        ":4:8",
        "the prefix length is too long",
        "10.0.0.0/8",
    );
    one(
        "[peers]\nallow = \"example.org\"",
        ":4:9",
        "must be an address",
        "10.0.0.0/8",
    );
    one(
        "[peers]\nnat64 = \"10.0.0.0/8\"",
        ":4:9",
        "must be an IPv6 prefix",
        "/96",
    );
    one(
        "[peers]\nnat64 = \"2001:db8::/95\"",
        ":4:9",
        "(RFC 6052)",
        "/96",
    );
}

#[test]
fn drain() {
    one(
        "[drain]\nalternate = \"192.0.2.2\"",
        ":4:13",
        "the port is missing",
        "192.0.2.2:3478",
    );
    one(
        "[drain]\nalternate = [\"192.0.2.2:1\", \"192.0.2.3:1\"]",
        ":4:29",
        "two addresses of one family",
        "alternate = ",
    );
    one(
        "[drain]\nalternate = \"0.0.0.0:1\"",
        ":4:13",
        "no address to send clients to",
        "",
    );
}
