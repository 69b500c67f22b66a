//! Binding: where a client's packets come from. Answered to everybody, remembered by nobody.

use std::net::SocketAddr;

use crate::proto::answer::{KNOWN, Refusal, finish};
use crate::proto::counters::{Outcome, RequestMethod};
use crate::proto::discovery::{Endpoint, Site};
use crate::proto::relay::Relay;
use crate::proto::types::{Disposition, DropReason, Flow, Now};
use crate::wire::{Attrs, Builder, Class, ErrorCode, Message, attr};

/// RESPONSE-PORT names nothing below: what a NAT maps is above, what listens there are services.
const LOWEST_RESPONSE_PORT: u16 = 1024;

/// What a Binding asks for besides its own address (RFC 5780 section 6.1).
#[derive(Clone, Copy, Default)]
struct Wish {
    change_ip: bool,
    change_port: bool,
    response_port: Option<u16>,
}

impl Wish {
    /// Reads the attributes of RFC 5780 as far as they can be met: with a second address and
    /// port, or without.
    fn read(attrs: &Attrs<'_>, alternates: bool) -> Result<Self, Refusal> {
        if attrs.contains(attr::PADDING) && attrs.contains(attr::RESPONSE_PORT) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        if unmet(attrs, alternates).next().is_some() {
            return Err(Refusal::UnknownAttributes);
        }
        let change = attrs.change_request()?.unwrap_or_default();
        let response_port = attrs.response_port()?;
        if response_port.is_some_and(|port| port < LOWEST_RESPONSE_PORT) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        Ok(Self {
            change_ip: change.ip,
            change_port: change.port,
            response_port,
        })
    }

    /// Whether the plain answer would do as well.
    const fn is_plain(self) -> bool {
        !self.change_ip && !self.change_port && self.response_port.is_none()
    }
}

/// The comprehension-required attributes that can not be met. Without alternates these are also
/// those of RFC 5780, but for the all-zero CHANGE-REQUEST that old clients send with every plain
/// request (section 6.1).
fn unmet(attrs: &Attrs<'_>, alternates: bool) -> impl Iterator<Item = u16> {
    let change = attrs.change_request();
    let nothing = matches!(change, Ok(Some(change)) if !change.ip && !change.port);
    attrs.unknown_required(KNOWN).filter(move |ty| match *ty {
        attr::CHANGE_REQUEST => !alternates && !nothing,
        attr::RESPONSE_PORT => !alternates,
        _ => true,
    })
}

impl Relay {
    /// Answers with XOR-MAPPED-ADDRESS and nothing else: 32 bytes for IPv4, 44 for IPv6, also to
    /// a request with credentials or FINGERPRINT. (No STUN usage that this server takes part in
    /// asks for FINGERPRINT in the answer, RFC 8489 section 7, and its 8 bytes would be free
    /// amplification.)
    ///
    /// Where the server has a second address and port, RFC 5780 asks for 68 and 116 bytes. They
    /// cost what they are; when that is not left in the budget the plain answer goes out.
    pub(in crate::proto) fn binding(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        let attrs = message.unprotected();
        let site = match flow.transport.is_stream() {
            true => None,
            false => self.shared.discovery.site(flow.local).copied(),
        };
        let wish = Wish::read(&attrs, site.is_some());
        let admit = |len| {
            let budget = &self.shared.budget;
            flow.transport.is_stream() || budget.admit_binding(now.mono, flow.client.ip(), len)
        };
        let mut outcome = Outcome::SUCCESS;
        let mut to = *flow;
        let admitted = match (wish, site) {
            (Err(refusal), _) => {
                // Nothing steers an error: it goes back the way that the request came.
                outcome = Outcome::error(refusal.code().value());
                let (method, id) = (message.method(), message.transaction_id());
                let mut builder = Builder::new(reply, Class::Error, method, id);
                builder.error_code(refusal.code(), false);
                if refusal == Refusal::UnknownAttributes {
                    builder.unknown_attributes(unmet(&attrs, site.is_some()));
                }
                let len = finish(builder, None)?;
                admit(len).then_some(len)
            }
            (Ok(wish), Some(site)) => {
                let from = site.answers_from(wish.change_ip, wish.change_port);
                to = leaving(flow, from, wish.response_port);
                let len = discovering(reply, message, flow.client, from, &site)?;
                if admit(len) {
                    Some(len)
                } else if wish.is_plain() {
                    let len = plain(reply, message, flow.client)?;
                    admit(len).then_some(len)
                } else {
                    None
                }
            }
            (Ok(_), None) => {
                let len = plain(reply, message, flow.client)?;
                admit(len).then_some(len)
            }
        };
        let Some(len) = admitted else {
            self.counters.reply_suppressed();
            return Err(DropReason::ReplyBudget);
        };
        self.counters.request(RequestMethod::Binding, outcome);
        Ok(Disposition::Reply {
            flow: to,
            len,
            authenticated: false,
        })
    }
}

/// The way of an answer that leaves from `from`. RESPONSE-PORT changes the port alone: it reaches
/// nobody whom the sender of a request, or a forger of its source, could not reach without it.
fn leaving(flow: &Flow, from: Endpoint, response_port: Option<u16>) -> Flow {
    let port = response_port.unwrap_or(flow.client.port());
    Flow {
        client: SocketAddr::new(flow.client.ip(), port),
        local: from.local,
        link: from.link,
        ..*flow
    }
}

fn plain(reply: &mut [u8], message: &Message<'_>, client: SocketAddr) -> Result<usize, DropReason> {
    let (method, id) = (message.method(), message.transaction_id());
    let mut builder = Builder::new(reply, Class::Success, method, id);
    builder.xor_address(attr::XOR_MAPPED_ADDRESS, client);
    finish(builder, None)
}

/// RFC 5780 section 6.1: both forms of the mapped address, where the answer comes from, and
/// where it would come from with both flags of CHANGE-REQUEST set.
fn discovering(
    reply: &mut [u8],
    message: &Message<'_>,
    client: SocketAddr,
    from: Endpoint,
    site: &Site,
) -> Result<usize, DropReason> {
    let (method, id) = (message.method(), message.transaction_id());
    let mut builder = Builder::new(reply, Class::Success, method, id);
    builder.xor_address(attr::XOR_MAPPED_ADDRESS, client);
    builder.address(attr::MAPPED_ADDRESS, client);
    builder.address(attr::RESPONSE_ORIGIN, from.public);
    builder.address(attr::OTHER_ADDRESS, site.other.public);
    finish(builder, None)
}
