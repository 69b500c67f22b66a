//! The peers' end: a few sockets that all allocations share.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use turnserver::client::datagrams::{self, Flushed, Receiver, Sender};

use super::clients::{BATCH, BUFFER, TURN, add};
use super::options::Plan;
use super::poll::Poll;

/// Tokens of peers begin here.
pub(super) const FIRST_TOKEN: usize = 1 << 32;

/// One thread's peers. Allocation `i` talks to peer `i % count`.
pub(super) struct Peers {
    peers: Vec<Peer>,
    receiver: Receiver,
    flushed: Flushed,
}

struct Peer {
    socket: UdpSocket,
    address: SocketAddr,
    sender: Sender,
}

impl Peers {
    pub(super) fn open(plan: &Plan, poll: &Poll) -> Result<Self, String> {
        let open = |index: usize| -> io::Result<Peer> {
            let socket = datagrams::bind((plan.peer_ip, 0).into(), BUFFER)?;
            datagrams::coalesce(&socket);
            poll.add(&socket, FIRST_TOKEN + index)?;
            Ok(Peer {
                address: socket.local_addr()?,
                socket,
                sender: Sender::new(BATCH, plan.size),
            })
        };
        let peers: io::Result<Vec<_>> = (0..plan.peers).map(open).collect();
        Ok(Self {
            peers: peers.map_err(|error| match error.kind() {
                io::ErrorKind::AddrNotAvailable => {
                    format!(
                        "--peer-bind {} is not an address of this machine",
                        plan.peer_ip
                    )
                }
                _ => format!("cannot open a socket on {}: {error}", plan.peer_ip),
            })?,
            receiver: Receiver::new(BATCH, datagrams::COALESCED),
            flushed: Flushed::default(),
        })
    }

    /// The peer of an allocation.
    pub(super) fn of(&self, allocation: usize) -> (usize, SocketAddr) {
        let index = allocation % self.peers.len();
        (index, self.peers[index].address)
    }

    /// Adds a packet from an allocation's peer to its relayed address.
    pub(super) fn send(
        &mut self,
        allocation: usize,
        to: &SocketAddr,
        build: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let count = self.peers.len();
        let peer = &mut self.peers[allocation % count];
        let len = build(peer.sender.slot());
        peer.sender.commit(len, Some(to), None);
        if peer.sender.is_full() {
            add(&mut self.flushed, peer.sender.flush(&peer.socket));
        }
    }

    /// Sends what is waiting; returns what became of all packets since the last time.
    pub(super) fn flush(&mut self) -> Flushed {
        for peer in &mut self.peers {
            if peer.sender.waiting() > 0 {
                add(&mut self.flushed, peer.sender.flush(&peer.socket));
            }
        }
        std::mem::take(&mut self.flushed)
    }

    /// Gives each packet that is there for peer `index` to `take`, with its source.
    pub(super) fn receive(&mut self, index: usize, mut take: impl FnMut(SocketAddr, &[u8])) {
        let socket = &self.peers[index].socket;
        let mut taken = 0;
        while taken < TURN {
            // An unconnected socket has no errors of its peers to tell.
            let received = self.receiver.receive(socket).unwrap_or(0);
            for datagram in (0..received).map(|index| self.receiver.datagram(index)) {
                if let Some(source) = datagram.source {
                    for bytes in datagram.segments() {
                        taken += 1;
                        take(source, bytes);
                    }
                }
            }
            if received < self.receiver.capacity() {
                break;
            }
        }
    }

    /// What this machine's receive buffers had no room for, so far.
    pub(super) fn drops(&self) -> u64 {
        let of = |peer: &Peer| datagrams::receive_drops(&peer.socket).unwrap_or(0);
        self.peers.iter().map(|peer| u64::from(of(peer))).sum()
    }
}
