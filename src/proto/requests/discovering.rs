//! Binding at an address that has alternates: RFC 5780 section 6.1.

use std::net::SocketAddr;

use super::binding::plain_answer;
use crate::proto::answer::{KNOWN, Refusal, finish};
use crate::proto::counters::{Outcome, RequestMethod};
use crate::proto::discovery::{Endpoint, Site};
use crate::proto::relay::Relay;
use crate::proto::types::{Disposition, DropReason, Flow, Now};
use crate::wire::{Attrs, Builder, Class, ErrorCode, Message, attr};

/// RESPONSE-PORT names nothing below: what a NAT maps is above, what listens there are services.
const LOWEST_RESPONSE_PORT: u16 = 1024;

/// What is asked for besides one's own address.
#[derive(Clone, Copy, Default)]
struct Wish {
    change_ip: bool,
    change_port: bool,
    response_port: Option<u16>,
}

impl Wish {
    fn read(attrs: &Attrs<'_>) -> Result<Self, Refusal> {
        if attrs.contains(attr::PADDING) && attrs.contains(attr::RESPONSE_PORT) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        if unmet(attrs).next().is_some() {
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

/// The comprehension-required attributes that are not known here. PADDING is one: an answer as
/// long as the MTU would amplify.
fn unmet(attrs: &Attrs<'_>) -> impl Iterator<Item = u16> {
    let known = [attr::CHANGE_REQUEST, attr::RESPONSE_PORT];
    let unknown = attrs.unknown_required(KNOWN);
    unknown.filter(move |ty| !known.contains(ty))
}

impl Relay {
    /// Answers with 68 bytes for IPv4 and 116 for IPv6. They cost what they are; when that is not
    /// left in the budget, and nothing but the mapped address is asked for, the plain answer goes
    /// out.
    #[cold]
    pub(super) fn discovering(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut [u8],
        site: &Site,
    ) -> Result<Disposition, DropReason> {
        let wish = Wish::read(&message.unprotected());
        let (mut to, mut outcome) = (*flow, Outcome::SUCCESS);
        let mut len = match wish {
            Ok(wish) => {
                let from = site.answers_from(wish.change_ip, wish.change_port);
                to = leaving(flow, from, wish.response_port);
                full_answer(reply, message, flow, from, site)?
            }
            // Nothing steers an error: it goes back the way that the request came.
            Err(refusal) => {
                outcome = Outcome::error(refusal.code().value());
                refused(reply, message, refusal)?
            }
        };
        let admit = |len| {
            let budget = &self.shared.budget;
            budget.admit_binding(now.mono, flow.client.ip(), len)
        };
        let mut admitted = admit(len);
        if !admitted && wish.is_ok_and(Wish::is_plain) {
            len = plain_answer(reply, message, flow)?;
            admitted = admit(len);
        }
        if !admitted {
            self.counters.reply_suppressed();
            return Err(DropReason::ReplyBudget);
        }
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

/// Both forms of the mapped address, where the answer comes from, and where it would come from
/// with both flags of CHANGE-REQUEST set.
fn full_answer(
    reply: &mut [u8],
    message: &Message<'_>,
    flow: &Flow,
    from: Endpoint,
    site: &Site,
) -> Result<usize, DropReason> {
    let (method, id) = (message.method(), message.transaction_id());
    let mut builder = Builder::new(reply, Class::Success, method, id);
    builder.xor_address(attr::XOR_MAPPED_ADDRESS, flow.client);
    builder.address(attr::MAPPED_ADDRESS, flow.client);
    builder.address(attr::RESPONSE_ORIGIN, from.public);
    builder.address(attr::OTHER_ADDRESS, site.other.public);
    finish(builder, None)
}

fn refused(reply: &mut [u8], message: &Message<'_>, refusal: Refusal) -> Result<usize, DropReason> {
    let (method, id) = (message.method(), message.transaction_id());
    let mut builder = Builder::new(reply, Class::Error, method, id);
    builder.error_code(refusal.code(), false);
    if refusal == Refusal::UnknownAttributes {
        builder.unknown_attributes(unmet(&message.unprotected()));
    }
    finish(builder, None)
}
