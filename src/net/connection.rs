//! One TCP or TLS connection: bytes in, bytes out, and the deadlines it has to meet.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustls::ServerConnection;

use super::admission::Ticket;
use super::write_queue::{KEEP, WriteQueue};
use super::{Limits, tls};
use crate::proto::{Flow, Mono, Transport};

/// The most bytes read from a connection in one batch: one TLS record.
pub(super) const READ_SIZE: usize = 16 * 1024;

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long memory for much data at once is kept after the last use of it, in microseconds: who
/// has much to say would take it and give it back with every turn otherwise.
const UNUSED: u64 = 10_000_000;

/// Bytes between the socket and the frames.
enum Speech {
    /// The first byte has not come.
    Undecided {
        certificates: Option<Arc<tls::Certificates>>,
        tls_only: bool,
    },
    Plain,
    Tls(Box<ServerConnection>),
}

/// What reading a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All that there is for now.
    Drained,
    /// More waits inside the connection, which no readiness event will tell.
    More,
    /// The client closed its sending side.
    End,
    /// The connection is broken, or does not speak what it should.
    Broken,
}

/// What writing to a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// Nothing waits any more.
    Done,
    /// The rest waits for room in the socket.
    Blocked,
    /// The connection is broken.
    Broken,
}

/// How far a connection has come. Each step has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No byte has come.
    Silent,
    /// Something came, but no valid credential.
    Unproven,
    /// A request carried a valid credential.
    Proven,
    /// Only what is queued is still written.
    Closing,
}

/// See the module.
pub(super) struct Connection {
    socket: TcpStream,
    speech: Speech,
    /// The 5-tuple; its transport is settled by the first byte.
    pub(super) flow: Flow,
    pub(super) phase: Phase,
    /// Its place among the unauthenticated ones.
    pub(super) ticket: Option<Ticket>,
    pub(super) queue: WriteQueue,
    /// The beginning of a frame whose rest has not come, or frames beyond a batch's share.
    input: Vec<u8>,
    /// `input` begins with a whole frame.
    backlog: bool,
    opened: Mono,
    active: Mono,
    /// When `input` or `queue` held more than what is kept of their memory.
    filled: Mono,
    /// Since when a frame is incomplete.
    partial: Option<Mono>,
    closing_since: Mono,
    /// The earliest timer that is set for it.
    pub(super) armed: Option<Mono>,
    /// It is watched for room to write.
    pub(super) blocked: bool,
    /// It is in the list of connections to write to.
    pub(super) dirty: bool,
    /// It is in the list of connections to come back to.
    pub(super) pending: bool,
    /// It is in the list of connections to close at the end of the batch.
    pub(super) doomed: bool,
    /// It is not worth waiting for until what is queued is written.
    pub(super) abandoned: bool,
}

impl Connection {
    pub(super) fn new(
        socket: OwnedFd,
        client: SocketAddr,
        bound: SocketAddr,
        tls_only: bool,
        certificates: Option<Arc<tls::Certificates>>,
        link: u64,
        now: Mono,
    ) -> io::Result<Self> {
        let socket = TcpStream::from(socket);
        let local = if bound.ip().is_unspecified() {
            let local = socket.local_addr()?;
            SocketAddr::new(local.ip().to_canonical(), local.port())
        } else {
            bound
        };
        Ok(Self {
            socket,
            speech: Speech::Undecided {
                certificates,
                tls_only,
            },
            flow: Flow {
                transport: if tls_only {
                    Transport::Tls
                } else {
                    Transport::Tcp
                },
                client,
                local,
                link,
            },
            phase: Phase::Silent,
            ticket: None,
            queue: WriteQueue::default(),
            input: Vec::new(),
            backlog: false,
            opened: now,
            active: now,
            filled: now,
            partial: None,
            closing_since: now,
            armed: None,
            blocked: false,
            dirty: false,
            pending: false,
            doomed: false,
            abandoned: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How many bytes were left over.
    pub(super) fn carried(&self) -> usize {
        self.input.len()
    }

    /// Puts what was left over and what has come since into `data`; returns how many bytes
    /// that are. `scratch` is for bytes as they are on the wire.
    pub(super) fn fill(
        &mut self,
        now: Mono,
        data: &mut [u8],
        scratch: &mut [u8; READ_SIZE],
    ) -> (usize, Reading) {
        let mut len = self.input.len();
        data[..len].copy_from_slice(&self.input);
        self.input.clear();
        if self.backlog {
            // First what is there already: the carried-over bytes only ever shrink then.
            return (len, Reading::More);
        }
        let room = (data.len() - len).min(READ_SIZE);
        if let Speech::Plain = self.speech {
            let reading = match self.socket.read(&mut data[len..len + room]) {
                Ok(0) => Reading::End,
                Ok(read) => {
                    self.active = now;
                    len += read;
                    Reading::Drained
                }
                Err(error) => stalled(&error),
            };
            return (len, reading);
        }
        if let Speech::Tls(tls) = &mut self.speech {
            // What did not fit the last time comes before anything new.
            match drain(tls, data, &mut len) {
                Ok(Drain::Full) => return (len, Reading::More),
                Ok(Drain::Empty) => {}
                Ok(Drain::End) => return (len, Reading::End),
                Err(_) => return (len, Reading::Broken),
            }
        }
        let room = (data.len() - len).min(READ_SIZE);
        let read = match self.socket.read(&mut scratch[..room]) {
            Ok(0) => return (len, Reading::End),
            Ok(read) => read,
            Err(error) => return (len, stalled(&error)),
        };
        self.active = now;
        let mut bytes = &scratch[..read];
        if !self.decide(bytes[0]) {
            return (len, Reading::Broken);
        }
        let Speech::Tls(tls) = &mut self.speech else {
            data[len..len + read].copy_from_slice(bytes);
            return (len + read, Reading::Drained);
        };
        let mut reading = Reading::Drained;
        while !bytes.is_empty() {
            let fed = tls.read_tls(&mut bytes).is_ok() && tls.process_new_packets().is_ok();
            match drain(tls, data, &mut len) {
                _ if !fed => return (len, Reading::Broken),
                Ok(Drain::Empty) => {}
                Ok(Drain::Full) => reading = Reading::More,
                Ok(Drain::End) => return (len, Reading::End),
                Err(_) => return (len, Reading::Broken),
            }
        }
        (len, reading)
    }

    /// Settles by the first byte what the connection speaks; `false` when it may not.
    fn decide(&mut self, first: u8) -> bool {
        let Speech::Undecided {
            certificates,
            tls_only,
        } = &self.speech
        else {
            return true;
        };
        self.phase = Phase::Unproven;
        match certificates {
            Some(certificates) if first == TLS_HANDSHAKE => {
                let Ok(mut tls) = certificates.accept() else {
                    return false;
                };
                tls.set_buffer_limit(Some(4 * READ_SIZE));
                self.speech = Speech::Tls(Box::new(tls));
                self.flow.transport = Transport::Tls;
                true
            }
            _ if *tls_only => false,
            _ => {
                self.speech = Speech::Plain;
                true
            }
        }
    }

    /// Whether the handshake has something to say.
    pub(super) fn wants_write(&self) -> bool {
        matches!(&self.speech, Speech::Tls(tls) if tls.wants_write())
    }

    /// Carries over the bytes behind the last whole frame (`backlog`: whole frames too, of
    /// which a batch had enough).
    pub(super) fn keep(&mut self, now: Mono, rest: &[u8], backlog: bool, progressed: bool) {
        self.input.extend_from_slice(rest);
        self.backlog = backlog;
        if rest.is_empty() {
            self.partial = None;
        } else if progressed || self.partial.is_none() {
            self.partial = Some(now);
        }
        self.trim(now);
    }

    /// Gives memory back that was not needed for a while.
    pub(super) fn trim(&mut self, now: Mono) {
        if self.input.len() > KEEP || self.queue.is_long() {
            self.filled = now;
        } else if now.micros_since(self.filled) > UNUSED {
            self.input.shrink_to(KEEP);
            self.queue.shrink();
        }
    }

    /// Writes what is queued, as much as the socket takes.
    pub(super) fn write(&mut self, now: Mono) -> Writing {
        self.trim(now);
        let result = match &mut self.speech {
            Speech::Tls(tls) => write_tls(&mut self.socket, tls, &mut self.queue),
            Speech::Plain | Speech::Undecided { .. } => write(&mut self.socket, &mut self.queue),
        };
        match result {
            Ok(()) => Writing::Done,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Writing::Blocked,
            Err(_) => Writing::Broken,
        }
    }

    /// From now on only what is queued is written, and the end of it said.
    pub(super) fn begin_closing(&mut self, now: Mono) {
        self.phase = Phase::Closing;
        self.closing_since = now;
        self.input = Vec::new();
        self.partial = None;
        if let Speech::Tls(tls) = &mut self.speech {
            tls.send_close_notify();
        }
    }

    /// Tells the client that nothing more will come.
    pub(super) fn shut_down(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// When the connection must have got further. `None` while it may stay as it is.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Mono> {
        let frame = self.partial.map(|since| after(since, limits.frame));
        let phase = match self.phase {
            Phase::Silent => Some(after(self.opened, limits.first_byte)),
            Phase::Unproven => Some(after(self.opened, limits.authenticated)),
            Phase::Proven => Some(after(self.active, limits.idle)),
            Phase::Closing => Some(after(self.closing_since, limits.linger)),
        };
        [frame, phase].into_iter().flatten().min()
    }

    /// The deadline was only that of an idle connection, and it has an allocation: it starts
    /// again.
    pub(super) fn excuse_idleness(&mut self, now: Mono, limits: &Limits) {
        let incomplete = self
            .partial
            .is_some_and(|since| after(since, limits.frame) <= now);
        if self.phase == Phase::Proven && !incomplete {
            self.active = now;
        }
    }
}

fn after(start: Mono, micros: u64) -> Mono {
    Mono(start.0.saturating_add(micros))
}

fn stalled(error: &io::Error) -> Reading {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Reading::Drained,
        _ => Reading::Broken,
    }
}

enum Drain {
    /// All plaintext is in `data`.
    Empty,
    /// `data` is full and there may be more.
    Full,
    /// The client said that it closes.
    End,
}

fn drain(tls: &mut ServerConnection, data: &mut [u8], len: &mut usize) -> io::Result<Drain> {
    while *len < data.len() {
        match tls.reader().read(&mut data[*len..]) {
            Ok(0) => return Ok(Drain::End),
            Ok(read) => *len += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Drain::Empty),
            Err(error) => return Err(error),
        }
    }
    Ok(Drain::Full)
}

fn write(socket: &mut TcpStream, queue: &mut WriteQueue) -> io::Result<()> {
    while !queue.is_empty() {
        match socket.write(queue.waiting()) {
            Ok(written) => queue.consume(written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Encrypts no more than the socket takes: what is encrypted cannot be dropped any more.
fn write_tls(
    socket: &mut TcpStream,
    tls: &mut ServerConnection,
    queue: &mut WriteQueue,
) -> io::Result<()> {
    loop {
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
        if tls.is_handshaking() || queue.is_empty() {
            return Ok(());
        }
        // Many records in one call, but never two messages in one record: clients are about that
        // take the first message of a record and lose the rest.
        let mut batch = 0;
        while batch < READ_SIZE && !queue.is_empty() {
            let message = queue.first();
            let record = &message[..message.len().min(READ_SIZE)];
            let taken = tls.writer().write(record)?;
            if taken == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            queue.consume(taken);
            batch += taken;
        }
    }
}

#[cfg(test)]
mod tests;
