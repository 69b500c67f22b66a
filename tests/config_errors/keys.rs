//! Keys that are not known, values of a wrong type or out of range.

use super::one;

#[test]
fn unknown_keys_and_sections() {
    one(
        "[limits]\nalocations = 3",
        ":4:1",
        "unknown key `alocations`",
        "`allocations`",
    );
    one(
        "[[listener]]\nprotocol = \"udp\"\nadress = \"127.0.0.1:1\"",
        ":5:1",
        "adress",
        "`address`",
    );
    one(
        "[relais]\nports = \"1\"",
        ":3:2",
        "unknown key `relais`",
        "`relay`",
    );
    one(
        "max_lifetime = 60",
        ":3:1",
        "top level",
        "belongs in [limits]",
    );
    one(
        "[log]\nxyzzy = 1",
        ":4:1",
        "not known in [log]",
        "known here: level, format",
    );
    one("Realm = \"x\"", ":3:1", "unknown key `Realm`", "`realm`");
}

#[test]
fn wrong_types() {
    one(
        "relay = 3",
        ":3:9",
        "`relay` must be a section: this is an integer",
        "[relay]",
    );
    one(
        "listener = \"udp\"",
        ":3:12",
        "must be a list of sections",
        "[[listener]]",
    );
    one(
        "[listener]\nprotocol = \"udp\"",
        ":3:1",
        "this is a single section",
        "[[listener]]",
    );
    one(
        "[peers]\nallow = 5",
        ":4:9",
        "a string or a list of strings",
        "allow = [",
    );
    one(
        "[peers]\nallow = [\"10.0.0.0/8\", 5]",
        ":4:24",
        "this is an integer",
        "allow = [",
    );
    one(
        "[auth.users]\nbob = 5",
        ":4:7",
        "`auth.users.bob` must be a string",
        "quotes",
    );
    one(
        "[limits]\nallocations = 1.5",
        ":4:15",
        "this is a float",
        "allocations = 0",
    );
    one(
        "auth.match_user_id = 1",
        ":3:22",
        "true or false",
        "match_user_id = false",
    );
}

#[test]
fn out_of_range() {
    one(
        "[limits]\nallocations = -1",
        ":4:15",
        "must be 0 or more",
        "",
    );
    one(
        "[limits]\nallocations = 5_000_000_000",
        ":4:15",
        "out of range",
        "",
    );
    one(
        "[limits]\nallocations = 99999999999999999999999999",
        ":4:15",
        "out of range",
        "",
    );
    one(
        "[limits]\nchannels_per_allocation = 4097",
        ":4:27",
        "must be 1 to 4096",
        "",
    );
    one(
        "[limits]\nmax_lifetime = 0",
        ":4:16",
        "must be 1 to 86400",
        "3600",
    );
    one(
        "[limits]\ndefault_lifetime = 3601",
        ":4:20",
        "above `limits.max_lifetime`: at most 3600",
        "raise",
    );
    one("[runtime]\nthreads = 0", ":4:11", "must be 1 to 1024", "");
    one(
        "[runtime]\ndata_path = \"uring\"",
        ":4:13",
        "uring",
        "io_uring",
    );
    one(
        "auth.nonce_lifetime = 9",
        ":3:23",
        "must be 10 to 86400",
        "600",
    );
}
