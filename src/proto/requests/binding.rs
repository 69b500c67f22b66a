//! Binding: where a client's packets come from. Answered to everybody, remembered by nobody.

use crate::proto::answer::{KNOWN, Refusal, error, finish};
use crate::proto::counters::{Outcome, RequestMethod};
use crate::proto::relay::Relay;
use crate::proto::types::{Disposition, DropReason, Flow, Now};
use crate::wire::{Builder, Class, ErrorCode, Message, attr};

impl Relay {
    /// Answers with XOR-MAPPED-ADDRESS and nothing else: 32 bytes for IPv4, 44 for IPv6, also to
    /// a request with credentials or FINGERPRINT. (No STUN usage that this server takes part in
    /// asks for FINGERPRINT in the answer, RFC 8489 section 7, and its 8 bytes would be free
    /// amplification.)
    pub(in crate::proto) fn binding(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        let stream = flow.transport.is_stream();
        let discovery = &self.shared.discovery;
        if !discovery.is_empty()
            && !stream
            && let Some(site) = discovery.site(flow.local).copied()
        {
            return self.discovering(now, flow, message, reply, &site);
        }
        let attrs = message.unprotected();
        // RFC 5780 section 7.2: without a second address only the all-zero CHANGE-REQUEST, which
        // old clients send with every plain request, can be met.
        let change = attrs.change_request();
        let plain = matches!(change, Ok(Some(change)) if !change.ip && !change.port);
        let mut unknown = attrs
            .unknown_required(KNOWN)
            .filter(|ty| !(plain && *ty == attr::CHANGE_REQUEST));
        let (len, outcome) = if unknown.next().is_some() {
            let (method, id) = (message.method(), message.transaction_id());
            let refusal = Refusal::UnknownAttributes;
            let len = error(reply, method, id, refusal, &attrs, None)?;
            let code = ErrorCode::UNKNOWN_ATTRIBUTE.value();
            (len, Outcome::error(code))
        } else {
            (plain_answer(reply, message, flow)?, Outcome::SUCCESS)
        };
        let budget = &self.shared.budget;
        if !stream && !budget.admit_binding(now.mono, flow.client.ip(), len) {
            self.counters.reply_suppressed();
            return Err(DropReason::ReplyBudget);
        }
        self.counters.request(RequestMethod::Binding, outcome);
        Ok(Disposition::Reply {
            flow: *flow,
            len,
            authenticated: false,
        })
    }
}

/// XOR-MAPPED-ADDRESS and nothing else.
#[inline]
pub(super) fn plain_answer(
    reply: &mut [u8],
    message: &Message<'_>,
    flow: &Flow,
) -> Result<usize, DropReason> {
    let (method, id) = (message.method(), message.transaction_id());
    let mut builder = Builder::new(reply, Class::Success, method, id);
    builder.xor_address(attr::XOR_MAPPED_ADDRESS, flow.client);
    finish(builder, None)
}
