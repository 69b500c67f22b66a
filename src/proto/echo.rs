//! A UDP address that answers Bindings and nothing else: the second port that a client finds out
//! with how its NAT maps it. By choice it also answers what is no STUN, with the sender's address
//! as text, which is how clients of stunturn learn theirs; so does one that serves TURN.

use std::io::Write as _;
use std::net::SocketAddr;

use super::counters::{Outcome, RequestMethod};
use super::relay::{Relay, is_answerable};
use super::requests::message_of;
use super::types::{Disposition, DropReason, Flow, Now};
use crate::wire::{ChannelData, Class, Kind, MAGIC_COOKIE, Method, classify};

impl Relay {
    /// Takes one datagram that came to such an address. With `echo` on, what is no STUN is
    /// answered with the sender's address as text, within the reply budget.
    pub fn handle_discovery(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &[u8],
        reply: &mut [u8],
        echo: bool,
    ) -> Disposition {
        let result = match bytes.first().map(|first| classify(*first)) {
            Some(Kind::Stun) if is_stun(bytes) => self.binding_only(now, flow, bytes, reply),
            _ if echo => self.echo(now, flow, bytes, reply),
            _ => Err(DropReason::Malformed),
        };
        self.counted(result)
    }

    /// Takes one datagram that came to an address where TURN is served: what is neither STUN nor
    /// ChannelData is answered with the sender's address as text, within the reply budget.
    pub fn handle_client_or_echo(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &[u8],
        reply: &mut [u8],
    ) -> Disposition {
        let ours = match bytes.first().map(|first| classify(*first)) {
            Some(Kind::Stun) => is_stun(bytes),
            // The text of these clients begins as a channel number does.
            Some(Kind::ChannelData) => ChannelData::parse(bytes, false).is_ok(),
            _ => false,
        };
        if ours {
            return self.handle_client(now, flow, bytes, reply);
        }
        let result = self.echo(now, flow, bytes, reply);
        self.counted(result)
    }

    fn binding_only(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &[u8],
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        let message = message_of(flow, bytes)?;
        match (message.class(), message.method()) {
            (Class::Request, Method::BINDING) => self.binding(now, flow, &message, reply),
            _ => Err(DropReason::Unexpected),
        }
    }

    fn echo(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &[u8],
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        if !is_answerable(flow.client) {
            return Err(DropReason::BadSource);
        }
        // Two such servers whose addresses somebody forged would talk to each other for ever.
        let text = std::str::from_utf8(bytes).ok();
        if text.is_some_and(|text| text.parse::<SocketAddr>().is_ok()) {
            return Err(DropReason::Unexpected);
        }
        let room = reply.len();
        let mut rest = &mut *reply;
        write!(rest, "{}", flow.client).map_err(|_| DropReason::TooLarge)?;
        let len = room - rest.len();
        if !self
            .shared
            .budget
            .admit_binding(now.mono, flow.client.ip(), len)
        {
            self.counters.reply_suppressed();
            return Err(DropReason::ReplyBudget);
        }
        self.counters
            .request(RequestMethod::Other, Outcome::SUCCESS);
        Ok(Disposition::Reply {
            flow: *flow,
            len,
            authenticated: false,
        })
    }
}

/// Whether it has the magic cookie (RFC 8489 section 5).
fn is_stun(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes())
}
