//! The relayed path: ChannelData and Send from clients, datagrams from peers, and the short way
//! between two allocations of one shard. It allocates nothing and copies no payload.

use std::net::SocketAddr;
use std::ops::Range;

use super::allocation::Allocation;
use super::peers::Reach;
use super::policy::Shared;
use super::registry::{relay_id, split};
use super::relay::{Relay, is_answerable};
use super::types::{Disposition, DropReason, Family, Flow, IcmpError, Mono, Prefix, RelayId};
use crate::wire::{
    Builder, ChannelData, Class, Icmp, Message, Method, attr, data_indication_prefix,
};

/// The most application data that a UDP datagram takes.
const fn max_datagram(v4: bool) -> usize {
    // 65535 minus the UDP header, and for IPv4 minus the IP header (RFC 768, RFC 791, RFC 8200).
    if v4 { 65_507 } else { 65_527 }
}

/// Whether a relayed transport address of this server belongs to the same pair as `allocation`.
fn of_pair(shared: &Shared, relayed: SocketAddr, allocation: &Allocation) -> bool {
    let pair = allocation.owner.pair();
    pair.is_some_and(|pair| shared.relays.is_of_pair(relayed, pair))
}

/// A payload on its way from a client to a peer.
struct Outbound {
    /// The sender's relayed transport address.
    relay: RelayId,
    public: SocketAddr,
    peer: SocketAddr,
    reach: Reach,
    payload: Range<usize>,
    dont_fragment: bool,
}

impl Relay {
    /// ChannelData from a client (RFC 8656 section 12.6).
    ///
    /// The channel alone decides: the section asks for a bound channel and for nothing else, and
    /// a bind went through the gate. What comes back is checked against the permission as well
    /// (section 11.3). Relaying refreshes neither.
    pub(super) fn channel_data(
        &mut self,
        now: Mono,
        flow: &Flow,
        bytes: &[u8],
    ) -> Result<Disposition, DropReason> {
        // RFC 8656 section 12.6: shorter than its length field says, or a reserved number:
        // silence.
        let data = ChannelData::parse(bytes, flow.transport.is_stream())
            .map_err(|_| DropReason::Malformed)?;
        let Some((key, allocation)) = self.registry.by_flow(flow) else {
            return Err(if is_answerable(flow.client) {
                DropReason::NoAllocation
            } else {
                DropReason::BadSource
            });
        };
        let Some(channel) = allocation.peers.channel(now, data.number) else {
            return Err(if allocation.is_live(now) {
                allocation.traffic.dropped += 1;
                DropReason::NoChannel
            } else {
                DropReason::NoAllocation
            });
        };
        let (peer, reach) = (channel.peer, channel.reach);
        let family = Family::of(&peer.ip());
        let half = allocation
            .half_of(now, family)
            .ok_or(DropReason::NoAllocation)?;
        let public = allocation.half(half).map_or(peer, |half| half.public);
        let outbound = Outbound {
            relay: relay_id(key, half),
            public,
            peer,
            reach,
            payload: data.data_range(),
            dont_fragment: false,
        };
        self.relay_to_peer(now, outbound)
    }

    /// A Send indication (RFC 8656 section 11.2): never answered, whatever is wrong.
    pub(super) fn send(
        &mut self,
        now: Mono,
        flow: &Flow,
        message: &Message<'_>,
    ) -> Result<Disposition, DropReason> {
        let (key, allocation) = self
            .registry
            .by_flow(flow)
            .filter(|(_, allocation)| allocation.is_live(now))
            .ok_or(DropReason::NoAllocation)?;
        let attrs = message.unprotected();
        // RFC 8489 section 6.3.2: an unknown comprehension-required attribute, and it is dropped.
        if attrs
            .unknown_required(super::answer::KNOWN)
            .next()
            .is_some()
        {
            return Err(DropReason::UnknownAttribute);
        }
        // RFC 8656 section 11.2: both XOR-PEER-ADDRESS and DATA.
        let (Ok(Some(peer)), Some(payload), Ok(dont_fragment)) =
            (attrs.peer(), attrs.data_range(), attrs.dont_fragment())
        else {
            return Err(DropReason::Malformed);
        };
        let family = Family::of(&peer.ip());
        let Some(half) = allocation.half_of(now, family) else {
            allocation.traffic.dropped += 1;
            return Err(DropReason::PeerFamily);
        };
        let Some(reach) = allocation.peers.permission(now, peer.ip()) else {
            allocation.traffic.dropped += 1;
            return Err(DropReason::NoPermission);
        };
        // The gate judged the IP address when the permission was installed, and no port 0
        // passes it.
        if peer.port() == 0 {
            allocation.traffic.dropped += 1;
            return Err(DropReason::PeerDenied);
        }
        let public = allocation.half(half).map_or(peer, |half| half.public);
        let outbound = Outbound {
            relay: relay_id(key, half),
            public,
            peer,
            reach,
            payload,
            dont_fragment,
        };
        self.relay_to_peer(now, outbound)
    }

    /// The last step for both: bandwidth, and where the peer really is.
    fn relay_to_peer(&mut self, now: Mono, outbound: Outbound) -> Result<Disposition, DropReason> {
        let Outbound {
            relay,
            public,
            peer,
            reach,
            payload,
            dont_fragment,
        } = outbound;
        let len = payload.len();
        let own = if reach.ours {
            self.shared.relays.live(peer)
        } else {
            None
        };
        let (key, _) = split(relay);
        let allocation = self
            .registry
            .live_mut(key)
            .ok_or(DropReason::NoAllocation)?;
        // Opened only for live relayed transport addresses, which this one is not (any more); or
        // for those of the allocation's own pair.
        let refused = match own {
            None => reach.exempt,
            Some(own) => reach.scoped && !of_pair(&self.shared, own.local, allocation),
        };
        if refused {
            allocation.traffic.dropped += 1;
            return Err(DropReason::PeerDenied);
        }
        if len > max_datagram(peer.is_ipv4()) {
            allocation.traffic.dropped += 1;
            return Err(DropReason::TooLarge);
        }
        if !allocation.count_up(now, len) {
            return Err(DropReason::Bandwidth);
        }
        self.counters.relayed_up(len);
        let Some(own) = own else {
            return Ok(Disposition::ToPeer {
                relay,
                peer,
                payload,
                dont_fragment,
            });
        };
        // Another relayed transport address of this server: never by way of the world. On this
        // shard it is handed over in memory, on another one it goes to the socket's local
        // address.
        match self.registry.by_local(own.local) {
            Some(receiver) => self.relay_to_client(now, receiver, public, true, payload),
            None => Ok(Disposition::ToPeer {
                relay,
                peer: own.local,
                payload,
                dont_fragment,
            }),
        }
    }

    /// A datagram from a peer (RFC 8656 section 11.3).
    pub(super) fn relay_from_peer(
        &mut self,
        now: Mono,
        relay: RelayId,
        peer: SocketAddr,
        len: usize,
    ) -> Result<Disposition, DropReason> {
        if !is_answerable(peer) {
            return Err(DropReason::BadSource);
        }
        // Flow label and scope of an IPv6 source are no part of a transport address.
        let peer = SocketAddr::new(peer.ip(), peer.port());
        // A relay socket of this server is known to its peers by its public address only.
        match self.shared.relays.live(peer) {
            Some(own) => self.relay_to_client(now, relay, own.public, true, 0..len),
            None => self.relay_to_client(now, relay, peer, false, 0..len),
        }
    }

    /// Towards the client that owns `relay`: by ChannelData where a channel is bound, else by a
    /// Data indication, and not at all without a live permission (RFC 8656 sections 11.3, 12.5).
    fn relay_to_client(
        &mut self,
        now: Mono,
        relay: RelayId,
        peer: SocketAddr,
        own_relay: bool,
        payload: Range<usize>,
    ) -> Result<Disposition, DropReason> {
        let len = payload.len();
        let (key, half) = split(relay);
        let id = self.indication_id();
        let allocation = self.registry.live_mut(key).ok_or(DropReason::NoRelay)?;
        if !allocation.half(half).is_some_and(|half| half.is_live(now)) {
            return Err(DropReason::NoRelay);
        }
        let Some(inbound) = allocation.peers.inbound(now, peer) else {
            allocation.traffic.dropped += 1;
            return Err(DropReason::NoPermission);
        };
        let refused = match own_relay {
            false => inbound.reach.exempt,
            true => inbound.reach.scoped && !of_pair(&self.shared, peer, allocation),
        };
        if refused {
            allocation.traffic.dropped += 1;
            return Err(DropReason::PeerDenied);
        }
        let flow = allocation.flow;
        let stream = flow.transport.is_stream();
        let mut padding = 0;
        let mut fits = true;
        let prefix = Prefix::build(|out| match inbound.channel {
            Some(number) => {
                out[..4].copy_from_slice(&ChannelData::header(number, len as u16));
                if stream {
                    padding = ChannelData::padding(len);
                }
                4
            }
            None => match data_indication_prefix(out, id, peer, len) {
                Some((prefix_len, zeros)) => {
                    padding = zeros;
                    prefix_len
                }
                None => {
                    fits = false;
                    0
                }
            },
        });
        let framed = prefix.as_slice().len() + len + usize::from(padding);
        fits &= if stream {
            len <= usize::from(u16::MAX)
        } else {
            framed <= max_datagram(flow.client.is_ipv4())
        };
        if !fits {
            allocation.traffic.dropped += 1;
            return Err(DropReason::TooLarge);
        }
        if !allocation.count_down(now, len) {
            return Err(DropReason::Bandwidth);
        }
        self.counters.relayed_down(len);
        Ok(Disposition::ToClient {
            flow,
            prefix,
            payload,
            padding,
        })
    }

    /// An ICMP error about a datagram to a peer (RFC 8656 section 11.5): a Data indication with
    /// ICMP, also where a channel is bound (section 12.5), if there is a permission for the IP
    /// address that the datagram went to.
    pub(super) fn icmp(
        &mut self,
        now: Mono,
        relay: RelayId,
        error: &IcmpError,
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        let destination = SocketAddr::new(error.destination.ip(), error.destination.port());
        let peer = self
            .shared
            .relays
            .to_public(destination)
            .unwrap_or(destination);
        // RFC 8656 section 11.5: destination unreachable and time exceeded for IPv4, and for
        // IPv6 packet too big as well.
        let forwarded: &[u8] = if peer.is_ipv4() { &[3, 11] } else { &[1, 2, 3] };
        if !forwarded.contains(&error.icmp_type) {
            return Err(DropReason::Icmp);
        }
        let id = self.indication_id();
        let (key, half) = split(relay);
        let allocation = self.registry.live_mut(key).ok_or(DropReason::NoRelay)?;
        if !allocation.half(half).is_some_and(|half| half.is_live(now)) {
            return Err(DropReason::NoRelay);
        }
        if allocation.peers.permission(now, peer.ip()).is_none() {
            return Err(DropReason::NoPermission);
        }
        let flow = allocation.flow;
        let mut builder = Builder::new(reply, Class::Indication, Method::DATA, id);
        builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
        builder.icmp(Icmp {
            icmp_type: error.icmp_type,
            code: u16::from(error.code),
            data: error.data,
        });
        let len = builder.finish().map_err(|_| DropReason::TooLarge)?;
        self.counters.icmp_forwarded();
        Ok(Disposition::Reply {
            flow,
            len,
            authenticated: true,
        })
    }
}
