//! STUN requests: who may ask, and one file a method.

mod allocate;
mod binding;
mod channel_bind;
mod create_permission;
mod discovering;
mod opened;
mod refresh;

use std::net::SocketAddr;
use std::sync::Arc;

use super::allocation::{Owner, Proof, Protection};
use super::answer::{KNOWN, Refusal, error, finish};
use super::audit::Audit;
use super::authenticate::{Context, Unproven, authenticate};
use super::counters::{Outcome, RequestMethod};
use super::gate::Verdict;
use super::peers::Reach;
use super::relay::{Relay, is_answerable};
use super::slab::Key;
use super::types::{Disposition, DropReason, Effect, Flow, Mono, Now};
use crate::wire::{Builder, Class, ErrorCode, Message, Method, ParseError, Verified};

/// A request of a proven user.
struct Request<'a> {
    flow: Flow,
    message: Message<'a>,
    /// Only attributes that the request's integrity covers.
    attrs: Verified<'a>,
    owner: Owner,
    proof: Proof,
    protection: Protection,
}

impl Request<'_> {
    /// Writes the success response, with the attributes that `fill` adds.
    fn success(
        &self,
        reply: &mut [u8],
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Result<Answer, Refusal> {
        let (method, id) = (self.message.method(), self.message.transaction_id());
        let mut builder = Builder::new(reply, Class::Success, method, id);
        fill(&mut builder);
        finish(builder, Some(&self.protection))
            .map(Answer::Success)
            .map_err(|_| ErrorCode::SERVER_ERROR.into())
    }
}

/// How a request went that was not refused.
enum Answer {
    /// A success response of this length is in the reply buffer.
    Success(usize),
    /// The answer comes with the relay sockets.
    Waiting,
}

/// What a client sent, when it is a STUN message that can be answered.
#[inline]
pub(super) fn message_of<'a>(flow: &Flow, bytes: &'a [u8]) -> Result<Message<'a>, DropReason> {
    if !is_answerable(flow.client) {
        return Err(DropReason::BadSource);
    }
    // RFC 8489 section 6.3: what is no well-formed STUN message is silently discarded; and what
    // has a wrong FINGERPRINT is no STUN message (section 7).
    Message::parse(bytes).map_err(|error| match error {
        ParseError::Fingerprint => DropReason::Fingerprint,
        _ => DropReason::Malformed,
    })
}

impl Relay {
    /// Any STUN message from a client.
    pub(super) fn stun(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &[u8],
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        let message = message_of(flow, bytes)?;
        let method = match (message.class(), message.method()) {
            (Class::Indication, Method::SEND) => return self.send(now.mono, flow, &message),
            (Class::Request, Method::BINDING) => {
                return self.binding(now, flow, &message, reply);
            }
            (Class::Request, Method::ALLOCATE) => RequestMethod::Allocate,
            (Class::Request, Method::REFRESH) => RequestMethod::Refresh,
            (Class::Request, Method::CREATE_PERMISSION) => RequestMethod::CreatePermission,
            (Class::Request, Method::CHANNEL_BIND) => RequestMethod::ChannelBind,
            // RFC 8489 section 6.3: unknown methods and classes that a method does not have.
            _ => return Err(DropReason::Unexpected),
        };
        let policy = Arc::clone(&self.policy);
        let known = self.registry.find(flow);
        let allocation = known.and_then(|key| self.registry.live(key));
        let context = Context {
            shared: &self.shared,
            policy: &policy,
            policy_number: self.policy_number,
            now,
            known: allocation.map(|allocation| (&allocation.owner, &allocation.proof)),
        };
        match authenticate(&context, flow, &message) {
            Ok(proven) => {
                let request = Request {
                    flow: *flow,
                    message,
                    attrs: proven.attrs,
                    protection: Protection {
                        key: Arc::clone(&proven.proof.key),
                        integrity: proven.integrity,
                        fingerprint: message.has_fingerprint(),
                    },
                    owner: proven.owner,
                    proof: proven.proof,
                };
                if let Some(allocation) = known.and_then(|key| self.registry.live_mut(key))
                    && (allocation.owner == request.owner
                        || allocation.owner.is_side_of(&request.owner))
                {
                    // The proof of another secret, under another policy, or a renewed one.
                    allocation.owner = request.owner.clone();
                    allocation.proof = request.proof.clone();
                }
                self.proven(now, method, &request, reply)
            }
            Err(unproven) => {
                let len = unproven.answer(&self.shared, &policy, now, flow, &message, reply)?;
                self.unproven(now, flow, method, unproven, len)
            }
        }
    }

    /// Carries out a request of a proven user and answers it, protected.
    fn proven(
        &mut self,
        now: Now,
        method: RequestMethod,
        request: &Request<'_>,
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        self.shared.budget.prove(now.mono, request.flow.client.ip());
        // What has expired is gone, also when its timer is not due for a moment.
        if let Some(key) = self.registry.find(&request.flow) {
            self.expire(now.mono, key);
        }
        let attrs = &request.attrs;
        // RFC 8489 section 6.3.1: unknown attributes are looked for once the sender is proven.
        let result = if attrs.unknown_required(KNOWN).next().is_some() {
            Err(Refusal::UnknownAttributes)
        } else {
            match method {
                RequestMethod::Allocate => self.allocate(request, reply),
                RequestMethod::Refresh => self.refresh(now.mono, request, reply),
                RequestMethod::CreatePermission => self.create_permission(now.mono, request, reply),
                _ => self.channel_bind(now.mono, request, reply),
            }
        };
        let len = match result {
            Ok(Answer::Waiting) => return Ok(Disposition::Waiting),
            Ok(Answer::Success(len)) => {
                self.counters.request(method, Outcome::SUCCESS);
                len
            }
            Err(refusal) => {
                self.counters
                    .request(method, Outcome::error(refusal.code().value()));
                error(
                    reply,
                    request.message.method(),
                    request.message.transaction_id(),
                    refusal,
                    attrs,
                    Some(&request.protection),
                )?
            }
        };
        Ok(Disposition::Reply {
            flow: request.flow,
            len,
            authenticated: true,
        })
    }

    /// Lets the answer to an unproven request out, if the budget has room.
    fn unproven(
        &mut self,
        now: Now,
        flow: &Flow,
        method: RequestMethod,
        unproven: Unproven,
        len: usize,
    ) -> Result<Disposition, DropReason> {
        let failure = unproven == Unproven::Wrong;
        if failure {
            self.counters.authentication_failed();
        }
        let source = flow.client.ip();
        // A stale nonce is told only to whoever has the right password, in fewer bytes than the
        // request had: nothing to gain for a forger, and a client's call depends on it.
        let admitted = flow.transport.is_stream()
            || unproven == Unproven::Stale
            || if failure {
                self.shared.budget.admit_failure(now.mono, source, len)
            } else {
                self.shared.budget.admit(now.mono, source, len)
            };
        if !admitted {
            self.counters.reply_suppressed();
            return Err(DropReason::ReplyBudget);
        }
        self.counters
            .request(method, Outcome::error(unproven.code().value()));
        if failure {
            // Behind the budget, so that guessing passwords cannot flood the log.
            self.effect(Effect::AuthenticationFailed { flow: *flow });
        }
        Ok(Disposition::Reply {
            flow: *flow,
            len,
            authenticated: false,
        })
    }

    /// The allocation that a request is about: 437 without one, 441 for somebody else's
    /// (RFC 8656 section 5).
    fn owned(&self, request: &Request<'_>) -> Result<Key, Refusal> {
        let found = self
            .registry
            .find(&request.flow)
            .and_then(|key| self.registry.live(key).map(|allocation| (key, allocation)));
        let Some((key, allocation)) = found else {
            return Err(ErrorCode::ALLOCATION_MISMATCH.into());
        };
        let same = allocation.owner.username == request.owner.username
            || allocation.owner.is_side_of(&request.owner)
            || self.policy.match_user_id && allocation.owner.user_id == request.owner.user_id;
        if !same {
            return Err(ErrorCode::WRONG_CREDENTIALS.into());
        }
        Ok(key)
    }

    /// What the gate and the scope of a pair say about a peer; 403 and a line for the log when it refuses
    /// (RFC 8656 sections 10.2 and 12.2). `any_port`: it is asked for all ports of a relay
    /// address of this server, of which each datagram still finds only those of the pair open.
    fn reach(
        &mut self,
        request: &Request<'_>,
        peer: SocketAddr,
        verdict: Verdict,
        any_port: bool,
    ) -> Result<Reach, Refusal> {
        let (verdict, scope) = match &request.owner.pair {
            None => (verdict, Some(false)),
            Some(scope) => {
                let of_pair = any_port || self.shared.relays.is_of_pair(peer, scope.pair);
                match verdict.is_denied() && of_pair {
                    true => (self.policy.gate.judge_of_pair(peer.ip()), Some(true)),
                    false if scope.allows(peer.ip()) => (verdict, Some(false)),
                    false => (verdict, of_pair.then_some(true)),
                }
            }
        };
        let (false, Some(own_only)) = (verdict.is_denied(), scope) else {
            self.audit(Audit::PeerRefused {
                flow: request.flow,
                username: request.owner.username.clone(),
                peer,
            });
            return Err(ErrorCode::FORBIDDEN.into());
        };
        Ok(Reach {
            ours: self.shared.relays.is_own_ip(peer.ip()),
            exempt: verdict == Verdict::OwnRelay || own_only,
            scoped: request.owner.pair.is_some(),
        })
    }

    /// The relayed transport address for a peer's family: 443 without one (RFC 8656 sections
    /// 10.2 and 12.2).
    fn check_family(&self, now: Mono, key: Key, peer: SocketAddr) -> Result<(), Refusal> {
        let family = super::types::Family::of(&peer.ip());
        self.registry
            .live(key)
            .and_then(|allocation| allocation.half_of(now, family))
            .map(|_| ())
            .ok_or(Refusal::Code(ErrorCode::PEER_FAMILY_MISMATCH))
    }
}
