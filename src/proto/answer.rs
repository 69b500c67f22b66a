//! Building answers: what goes into which, and what may leave for whom.

use std::net::SocketAddr;

use super::allocation::Protection;
use super::types::DropReason;
use crate::wire::{Attrs, Builder, Class, ErrorCode, Method, TransactionId, attr};

/// The order in which PASSWORD-ALGORITHMS offers them: the stronger one first, because clients
/// take the first one they know (RFC 8489 section 9.2.5).
pub(crate) const OFFERED: [crate::wire::PasswordAlgorithm; 2] = [
    crate::wire::PasswordAlgorithm::Sha256,
    crate::wire::PasswordAlgorithm::Md5,
];

/// The value of PASSWORD-ALGORITHMS that [`OFFERED`] becomes; a client echoes it byte for byte.
pub(crate) const OFFERED_VALUE: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// The comprehension-required attributes that this server understands, wherever they stand
/// (RFC 8489 section 6.3.1: known but unexpected ones are ignored).
pub(crate) const KNOWN: &[u16] = &[
    attr::MAPPED_ADDRESS,
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::MESSAGE_INTEGRITY_SHA256,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::XOR_MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
];

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An error code that says it all.
    Code(ErrorCode),
    /// 420, with the types listed (RFC 8489 section 6.3.1).
    UnknownAttributes,
    /// 300: try this server (RFC 8489 section 10).
    Alternate(SocketAddr),
}

impl Refusal {
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Code(code) => code,
            Self::UnknownAttributes => ErrorCode::UNKNOWN_ATTRIBUTE,
            Self::Alternate(_) => ErrorCode::TRY_ALTERNATE,
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

impl From<crate::wire::Malformed> for Refusal {
    /// An attribute of a wrong length is 400, whatever else is right.
    fn from(_: crate::wire::Malformed) -> Self {
        Self::Code(ErrorCode::BAD_REQUEST)
    }
}

/// Ends an answer: integrity with the algorithm that the request used, and FINGERPRINT where the
/// request carried one. Answers without [`Protection`] get neither and stay as small as can be.
pub(crate) fn finish(
    mut builder: Builder<'_>,
    protection: Option<&Protection>,
) -> Result<usize, DropReason> {
    if let Some(protection) = protection {
        builder.integrity(protection.integrity, &protection.key);
        if protection.fingerprint {
            builder.fingerprint();
        }
    }
    builder.finish().map_err(|_| DropReason::TooLarge)
}

/// Writes an error response. Reason phrases only go to proven users: an unauthenticated answer
/// has no byte that an attacker could have amplified.
pub(crate) fn error(
    reply: &mut [u8],
    method: Method,
    transaction: TransactionId,
    refusal: Refusal,
    attrs: &Attrs<'_>,
    protection: Option<&Protection>,
) -> Result<usize, DropReason> {
    let mut builder = Builder::new(reply, Class::Error, method, transaction);
    builder.error_code(refusal.code(), protection.is_some());
    match refusal {
        Refusal::Code(_) => {}
        Refusal::UnknownAttributes => {
            builder.unknown_attributes(attrs.unknown_required(KNOWN));
        }
        Refusal::Alternate(sibling) => {
            builder.address(attr::ALTERNATE_SERVER, sibling);
        }
    }
    finish(builder, protection)
}
