//! `docs/signalling.md` says what the code does, number by number.

use super::Limits;
use super::frames::{CloseCode, MAX_MESSAGE};
use super::http::{self, status_of};
use super::mailbox::BEHIND;
use super::room::SITE;
use super::{join, listener, nonces, ws};
use crate::pairing::{ErrorCode, MAX_BLOB, Reason};

const DOCUMENT: &str = include_str!("../../docs/signalling.md");

/// The cells of a row of a table, by its first one.
fn row(first: &str) -> Vec<&'static str> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| "));
    let mut rows = rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim));
    let found = rows.find(|cells| cells.clone().next() == Some(first));
    let found = found.unwrap_or_else(|| panic!("no row {first:?}"));
    found.collect()
}

/// The numbers in a text.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn every_error_code_with_its_status() {
    for code in [
        ErrorCode::NobodyWaits,
        ErrorCode::TimedOut,
        ErrorCode::Busy,
        ErrorCode::TooMany,
        ErrorCode::BadRequest,
        ErrorCode::ProofRequired,
        ErrorCode::ProofWrong,
        ErrorCode::TooLarge,
        ErrorCode::NoSession,
        ErrorCode::GoingAway,
        ErrorCode::Internal,
    ] {
        let name = serde_json::to_string(&code).expect("a name");
        let row = row(&format!("`{}`", name.trim_matches('"')));
        let status = u64::from(status_of(code).as_u16());
        assert_eq!(numbers(row[1]).first(), Some(&status), "{row:?}");
    }
    for reason in [
        Reason::Joins,
        Reason::Connections,
        Reason::Waits,
        Reason::AllWaits,
        Reason::Sessions,
        Reason::AllSessions,
        Reason::HostSessions,
        Reason::Receivers,
        Reason::Signals,
        Reason::Messages,
        Reason::Displaced,
    ] {
        let name = serde_json::to_string(&reason).expect("a name");
        assert_eq!(row(&format!("`{}`", name.trim_matches('"'))).len(), 2);
    }
    for code in [
        CloseCode::Normal,
        CloseCode::Away,
        CloseCode::Policy,
        CloseCode::Size,
    ] {
        assert_eq!(row(&(code as u16).to_string()).len(), 2, "{code:?}");
    }
}

#[test]
fn every_limit() {
    let limits = Limits::default();
    let room = limits.room;
    let large = |number: usize| number as u64;
    for (first, expected) in [
        (
            "message on the WebSocket, body of a request",
            vec![large(MAX_MESSAGE)],
        ),
        ("`blob`", vec![large(MAX_BLOB)]),
        ("`endpoints`", vec![large(join::MAX_ENDPOINTS)]),
        (
            "signals of one side of a session",
            vec![u64::from(room.signals), 2],
        ),
        (
            "messages on one WebSocket, without signals that their sessions let pass",
            vec![ws::MESSAGES.1, ws::MESSAGES.0],
        ),
        (
            "joins and renewals of one source (an IPv4 address, an IPv6 /64)",
            vec![u64::from(limits.joins_per_minute)],
        ),
        (
            "receivers that are paired under one id, and of those from one source",
            vec![
                u64::from(limits.receivers_per_id),
                u64::from(limits.receivers_per_id_and_source),
            ],
        ),
        ("initiators under one id", vec![large(room.waiting_per_id)]),
        (
            "sessions of one WebSocket, which matters to hosts",
            vec![large(room.sessions_per_seat)],
        ),
        (
            "connections of one source, those of them that wait, and the sessions of receivers from there",
            vec![large(limits.connections_per_source)],
        ),
        (
            "new connections of one source",
            vec![u64::from(limits.connections_per_minute)],
        ),
        (
            "of its connections those that have not asked to join",
            vec![large(limits.strangers_per_source)],
        ),
        (
            "first byte, TLS handshake, header, body, a message in several frames, each",
            vec![http::HEADER.as_secs()],
        ),
        (
            "from the connection until it asks to join (or renews), in all",
            vec![listener::WHOLE],
        ),
    ] {
        assert_eq!(numbers(row(first)[1]), expected, "{first}");
    }
    assert_eq!(http::MAX_BODY, MAX_MESSAGE);
    assert_eq!(http::BODY, http::HEADER);
    assert_eq!(ws::MESSAGE, http::HEADER.as_secs());
    assert_eq!(limits.connections_per_minute, 4 * limits.joins_per_minute);
    for one in [room.waiting_per_source, room.sessions_per_source] {
        assert_eq!(one, limits.connections_per_source);
    }
    for text in [
        format!("an IPv6 /48 may have {SITE} times as much"),
        format!("does not read is kept for {BEHIND} s"),
        format!("A nonce is good for {} s", nonces::PERIOD),
        format!("nothing came for {} s", ws::PING),
        format!("after {} s of silence", ws::SILENCE),
        format!("no session is open for {} s", ws::IDLE),
        format!("it may be silent: {}", room.host_silence_s),
        format!("default {}, capped", join::DEFAULT_WAIT_S),
        format!("capped by the server ({} unless", room.max_wait_s),
    ] {
        assert!(DOCUMENT.contains(&text), "{text:?}");
    }
}
