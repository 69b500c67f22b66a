//! Keeps the house as `docs/architecture.md` draws it: imports go strictly downward, `unsafe`
//! has one room at each end, `wire` and `proto` touch neither sockets nor files nor clocks, files stay short,
//! and the documents name only code and tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and the rooms that it may import. `server.rs` and the binaries see all of them.
const ROOMS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("proto", &["wire"]),
    ("opaque", &[]),
    ("auth", &["opaque", "proto", "wire"]),
    ("net", &["proto", "wire"]),
    ("pairing", &[]),
    ("signal", &["auth", "pairing", "proto", "wire"]),
    ("client", &["pairing", "wire"]),
    ("config", &["opaque"]),
    ("ops", &["proto", "config"]),
];

/// What may not occur in `wire` and `proto`: time, randomness and bytes are passed in.
const OUTSIDE_WORLD: &[&str] = &[
    "tokio",
    "tracing",
    "getrandom",
    "socket2",
    "libc",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::fs",
    "std::env",
    "std::thread",
    "Instant::now",
    "SystemTime",
];

const MOST_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files under a directory, in a fixed order.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() && !path.ends_with("node_modules") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Source files with their path below `src` and their code, without comments and literals.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let files: Vec<_> = rust_files(&src)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).expect("below src");
            let text = fs::read_to_string(&path).expect("UTF-8");
            (name.to_string_lossy().into_owned(), code_only(&text))
        })
        .collect();
    assert!(files.len() > 20, "the sources were found");
    files
}

/// Blanks comments, strings and character literals.
fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let next = chars.get(at + 1).copied().unwrap_or('\0');
        let end = match (chars[at], next) {
            ('/', '/') => find(&chars, at, |rest| rest[0] == '\n'),
            ('/', '*') => end_of_block_comment(&chars, at),
            ('"', _) => end_of_string(&chars, at + 1),
            ('r', '"' | '#') if !is_word(&out) => end_of_raw_string(&chars, at).unwrap_or(at),
            ('\'', '\\') => find(&chars, at + 3, |rest| rest[0] == '\'') + 1,
            ('\'', _) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            let newlines = chars[at..end.min(chars.len())].iter();
            out.extend(newlines.filter(|&&c| c == '\n'));
            out.push(' ');
            at = end;
        }
    }
    out
}

fn is_word(out: &str) -> bool {
    out.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn find(chars: &[char], from: usize, found: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len())
        .find(|&at| found(&chars[at..]))
        .unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (at, depth) = (at + 2, depth + 1),
            ('*', '/') => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let quote = start + 1 + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let close = |rest: &[char]| {
        rest[0] == '"' && rest[1..].iter().take_while(|&&c| c == '#').count() >= hashes
    };
    Some(find(chars, quote + 1, close) + 1 + hashes)
}

/// The modules that a file's code names through `crate::` or enough `super::`, one level deep.
fn imported_rooms(name: &str, code: &str) -> BTreeSet<String> {
    let depth = module_depth(name);
    let compact: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let compact = compact.replace(":: ", "::").replace(" ::", "::");
    let mut rooms = BTreeSet::new();
    for (at, _) in compact.match_indices("crate::") {
        if !is_word(&compact[..at]) && !compact[..at].ends_with('$') {
            first_segments(&compact[at + "crate::".len()..], &mut rooms);
        }
    }
    for (at, _) in compact.match_indices("super::") {
        if compact[..at].ends_with("super::") || is_word(&compact[..at]) {
            continue;
        }
        let mut rest = &compact[at..];
        let mut supers = 0;
        while let Some(shorter) = rest.strip_prefix("super::") {
            rest = shorter;
            supers += 1;
        }
        if supers >= depth {
            first_segments(rest, &mut rooms);
        }
    }
    rooms.retain(|room| ROOMS.iter().any(|(name, _)| name == room) || room == "server");
    rooms
}

/// How many `super::` lead from a file's module to the crate root.
fn module_depth(name: &str) -> usize {
    let parts = name.split('/').count();
    if name.ends_with("mod.rs") {
        parts - 1
    } else {
        parts
    }
}

/// The first path segment of `a::b`, or of every branch of `{a::b, c}`.
fn first_segments(path: &str, into: &mut BTreeSet<String>) {
    let segment = |text: &str| {
        text.trim_start()
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let Some(group) = path.strip_prefix('{') else {
        into.insert(segment(path));
        return;
    };
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                into.insert(segment(&group[start..at]));
                return;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                into.insert(segment(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The room that a file belongs to; `None` for those that see every room.
fn room_of(name: &str) -> Option<&str> {
    let room = name.split('/').next().unwrap_or_default();
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (!matches!(room, "bin" | "lib" | "server" | "main")).then_some(room)
}

fn violations(name: &str, code: &str) -> Vec<String> {
    let Some(room) = room_of(name) else {
        return Vec::new();
    };
    let Some((_, allowed)) = ROOMS.iter().find(|(known, _)| *known == room) else {
        return vec![format!("{name}: the room `{room}` is not in the table")];
    };
    imported_rooms(name, code)
        .into_iter()
        .filter(|import| import != room && !allowed.contains(&import.as_str()))
        .map(|import| format!("{name}: `{room}` may not import `{import}`"))
        .collect()
}

/// Whether `text` occurs in `code` as whole words.
fn names(code: &str, text: &str) -> bool {
    code.match_indices(text).any(|(at, _)| {
        let after = code[at + text.len()..].chars().next();
        !is_word(&code[..at]) && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn imports_go_downward() {
    let found: Vec<_> = sources()
        .iter()
        .flat_map(|(name, code)| violations(name, code))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_rule_bites() {
    for (name, code) in [
        ("wire/attrs.rs", "use crate::proto::Now;"),
        ("wire/mod.rs", "use super::proto;"),
        ("proto/requests/bind.rs", "use super::super::super::net::X;"),
        (
            "client/mod.rs",
            "use crate::{wire::Key, proto::{Now, Mono}};",
        ),
        ("config/load.rs", "fn f() { crate :: server :: run() }"),
    ] {
        assert_eq!(violations(name, code).len(), 1, "{name}: {code}");
    }
    for (name, code) in [
        (
            "proto/relay.rs",
            "use crate::wire::Key; use super::types::Now;",
        ),
        ("client/mod.rs", "use crate::{wire::{Key, proto}};"),
        ("server.rs", "use crate::net::Bound;"),
        ("bin/turnserver/main.rs", "use crate::net::Bound;"),
    ] {
        assert_eq!(violations(name, code), [""; 0], "{name}: {code}");
    }
    let text = "a /* crate::net /* x */ */ \"crate::net\" 'c' r#\"crate::net\"# // crate::net\nb";
    assert!(imported_rooms("wire/a.rs", &code_only(text)).is_empty());
    assert!(code_only(text).starts_with('a') && code_only(text).ends_with('b'));
}

#[test]
fn each_end_has_one_room_for_unsafe() {
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|(name, code)| {
            // One for each end of the protocol: the load generator lives from batched system
            // calls as the server does, and the two ends must not share a bug.
            let in_room = ["net/sys", "client/sys"].iter().any(|room| {
                let inside = name.strip_prefix(room);
                inside.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            });
            !in_room && names(code, "unsafe")
        })
        .map(|(name, _)| name)
        .collect();
    assert!(
        found.is_empty(),
        "`unsafe` outside src/net/sys.rs and src/client/sys.rs: {found:?}"
    );
}

#[test]
fn wire_and_proto_never_touch_the_outside_world() {
    for (name, code) in sources() {
        if matches!(room_of(&name), Some("wire" | "proto")) {
            for outside in OUTSIDE_WORLD {
                assert!(!names(&code, outside), "{name} names `{outside}`");
            }
        }
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for directory in ["src", "tests", "benches"] {
        let directory_path = root().join(directory);
        for path in directory_path
            .is_dir()
            .then(|| rust_files(&directory_path))
            .into_iter()
            .flatten()
        {
            let lines = fs::read_to_string(&path).expect("UTF-8").lines().count();
            if lines > MOST_LINES {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// Every `` `path/to/file.rs` `` and `` `file.rs::name` `` in the documents exists.
#[test]
fn documents_name_what_exists() {
    let mut missing = Vec::new();
    for document in [
        "README.md",
        "docs/architecture.md",
        "docs/pairing-coverage.md",
        "docs/punching.md",
        "docs/rfc-coverage.md",
        "docs/signalling.md",
    ] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        for quoted in text.split('`').skip(1).step_by(2) {
            // A command's arguments name nothing.
            let named = quoted.split_whitespace().next().unwrap_or_default();
            let (path, item) = named.split_once("::").unwrap_or((named, ""));
            let in_tree = ["src/", "tests/", "benches/", "config/", "deploy/", "docs/"];
            if !in_tree.iter().any(|prefix| path.starts_with(prefix)) || path.contains('*') {
                continue;
            }
            let exists = match fs::read_to_string(root().join(path)) {
                Ok(_) if item.is_empty() => true,
                Ok(code) => item.split("::").all(|word| defines(&code, word)),
                Err(_) => item.is_empty() && root().join(path).is_dir(),
            };
            if !exists {
                missing.push(format!("{document}: {quoted}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Whether code defines a function, type, constant or module of this name.
fn defines(code: &str, name: &str) -> bool {
    [
        "fn ", "struct ", "enum ", "trait ", "const ", "static ", "mod ", "type ",
    ]
    .iter()
    .any(|keyword| names(code, &format!("{keyword}{name}")))
}
