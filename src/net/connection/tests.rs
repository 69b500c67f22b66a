//! How a connection writes, and what memory it keeps.

use std::os::unix::net::UnixDatagram;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::net::admission::Admission;
use crate::net::streams::Streams;
use crate::net::write_queue::KEEP_RECORDS;
use crate::net::{Protocol, StreamLimits};
use crate::proto::counters::Counters;

const NOW: Mono = Mono(1_000_000);

/// A connection in a shard's table whose other end keeps apart what was written apart.
fn connected(certificates: Option<Arc<tls::Certificates>>) -> (Streams, u64, UnixDatagram) {
    let (here, there) = UnixDatagram::pair().expect("a pair");
    here.set_nonblocking(true).expect("set");
    there.set_nonblocking(true).expect("set");
    let mut streams = Streams::new(
        0,
        Arc::new(Admission::new(1, 1)),
        (&StreamLimits::default()).into(),
        Arc::new(Counters::new()),
    );
    let [client, local] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let protocol = match certificates {
        Some(_) => Protocol::Tls,
        None => Protocol::Tcp,
    };
    let listener = (local, protocol, certificates);
    let added = streams.add(NOW, here.into(), client, listener);
    let (link, _) = added.expect("there is room");
    (streams, link, there)
}

/// What a turn does: messages are queued, and then each connection that has some is written to.
fn turn(streams: &mut Streams, now: Mono, link: u64, messages: &[Vec<u8>]) {
    for (number, message) in messages.iter().enumerate() {
        let (start, rest) = message.split_at(4);
        let answer = number % 7 == 0;
        assert!(streams.queue(now, link, [start, rest, b""], answer));
    }
    assert_eq!(streams.pop_dirty(), Some(link));
    assert_eq!(streams.pop_dirty(), None, "it is written to once");
    let written = connection(streams, link).write(now);
    assert_eq!(written, Writing::Done);
}

fn connection(streams: &mut Streams, link: u64) -> &mut Connection {
    streams.get(link).expect("open")
}

/// What came by each write.
fn writes(there: &UnixDatagram) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 1 << 17];
    std::iter::from_fn(|| {
        let len = there.recv(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    })
    .collect()
}

fn messages(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number as u8; len]).collect()
}

#[test]
fn the_messages_of_a_turn_are_one_write() {
    let (mut streams, link, there) = connected(None);
    for count in [1, 5, 50] {
        let messages = messages(count, 176);
        turn(&mut streams, NOW, link, &messages);
        assert_eq!(writes(&there), [messages.concat()]);
    }
}

/// A connection over which a client has shaken hands.
fn shaken() -> (Streams, u64, UnixDatagram, ClientConnection) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let dir = tempfile::tempdir().expect("a directory");
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let certificates = tls::Certificates::load(&cert, &key).expect("loads");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");

    let (mut streams, link, there) = connected(Some(certificates));
    let (mut data, mut scratch) = (vec![0; 4 * READ_SIZE], [0; READ_SIZE]);
    for _ in 0..4 {
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).expect("memory");
        }
        if !said.is_empty() {
            there.send(&said).expect("sent");
        }
        let connection = connection(&mut streams, link);
        let (len, reading) = connection.fill(NOW, &mut data, &mut scratch);
        assert_eq!((len, reading), (0, Reading::Drained));
        assert_eq!(connection.write(NOW), Writing::Done);
        for bytes in writes(&there) {
            take(&mut client, &bytes);
        }
    }
    assert!(!client.is_handshaking());
    (streams, link, there, client)
}

fn take(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("memory");
        client.process_new_packets().expect("TLS");
    }
}

#[test]
fn the_messages_of_a_turn_are_one_write_over_tls_and_a_record_each() {
    let (mut streams, link, there, mut client) = shaken();
    let messages = messages(40, 176);
    turn(&mut streams, NOW, link, &messages);
    let writes = writes(&there);
    assert_eq!(writes.len(), 1);
    let mut records = Vec::new();
    let mut rest = &writes[0][..];
    while let [_, _, _, high, low, ..] = *rest {
        let (record, behind) = rest.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
        take(&mut client, record);
        let mut plain = vec![0; READ_SIZE];
        let len = client.reader().read(&mut plain).expect("a message");
        plain.truncate(len);
        records.push(plain);
        rest = behind;
    }
    assert_eq!(records, messages);
}

/// Whether it has more memory than an idle connection may keep.
fn is_large(connection: &Connection) -> bool {
    let (bytes, records) = connection.queue.capacity();
    bytes > KEEP || records > KEEP_RECORDS || connection.input.capacity() > KEEP
}

#[test]
fn memory_stays_while_it_is_used_and_goes_when_it_was_not_for_a_while() {
    let (mut streams, link, there) = connected(None);
    let (many, few) = (messages(200, 200), messages(1, 200));
    turn(&mut streams, NOW, link, &many);
    assert_eq!(writes(&there).len(), 1);
    let memory = connection(&mut streams, link).queue.capacity();
    for second in 1..100 {
        let messages = if second % 5 == 0 { &many } else { &few };
        turn(&mut streams, NOW.plus_secs(second), link, messages);
        assert_eq!(connection(&mut streams, link).queue.capacity(), memory);
        assert_eq!(writes(&there).len(), 1);
    }
    // The last burst was at 95.
    turn(&mut streams, NOW.plus_secs(105), link, &few);
    assert!(is_large(connection(&mut streams, link)));
    turn(&mut streams, NOW.plus_secs(106), link, &few);
    assert!(!is_large(connection(&mut streams, link)));
}

#[test]
fn memory_for_a_large_frame_is_kept_like_that_for_bursts() {
    let (mut streams, link, _there) = connected(None);
    let connection = connection(&mut streams, link);
    let mut data = vec![0; 1 << 17];
    for second in 0..30 {
        let now = NOW.plus_secs(second);
        connection.keep(now, &[1; 20_000], false, false);
        let capacity = connection.input.capacity();
        let (len, _) = connection.fill(now, &mut data, &mut [0; READ_SIZE]);
        assert_eq!(len, 20_000);
        connection.keep(now, &[], false, true);
        assert_eq!(connection.input.capacity(), capacity);
    }
    connection.keep(NOW.plus_secs(40), &[1; 20], false, true);
    connection.keep(NOW.plus_secs(40), &[], false, true);
    assert!(!is_large(connection));
}

#[test]
fn a_connection_that_falls_silent_keeps_little() {
    let (mut streams, link, _there) = connected(None);
    connection(&mut streams, link).phase = Phase::Proven;
    connection(&mut streams, link).input.reserve(20_000);
    turn(&mut streams, NOW, link, &messages(200, 200));
    streams.arm(link);
    assert!(is_large(connection(&mut streams, link)));
    let idle = StreamLimits::default().idle;
    let later = NOW.plus_secs(idle.as_secs());
    while streams.pop_late(later).is_some() {}
    assert!(!is_large(connection(&mut streams, link)));
}
