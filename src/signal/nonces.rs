//! What those who join by id are to sign. A WebSocket has one nonce for as long as it lasts. HTTP
//! has a connection for each request, so its nonces are kept by the client: they carry their time
//! and a code that only this server makes, bound to the source that they were given to. What is
//! remembered is which of them were used.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::pairing::Nonce;
use crate::proto::Mono;

use super::room::Source;

/// A nonce of HTTP is good for as many seconds, and at most for twice as many.
pub(super) const PERIOD: u64 = 30;

/// How many may be used in a period; 8 bytes are remembered of each.
const MOST: usize = 1 << 16;

/// The bytes of the code behind a nonce of HTTP.
const CODE: usize = 16;

/// See the module.
pub(super) struct Nonces {
    key: Hmac<Sha256>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last nonce.
    last: u64,
    /// The latest period in which one was used.
    period: u64,
    /// The numbers of those used that were given out in that period, and in the one before.
    used: [BTreeSet<u64>; 2],
}

/// What became of a nonce that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is good, this once.
    First,
    /// It was used before, or its time is over.
    Stale,
    /// So many were used that no more can be remembered.
    Full,
}

/// A nonce of HTTP that this server gave to this source, not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    period: u64,
    number: u64,
}

impl Nonces {
    /// `seed` is secret and random.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self {
            key: Hmac::new_from_slice(seed).expect("any length is a key"),
            state: Mutex::default(),
        }
    }

    /// For a WebSocket: never given before, and not to be foreseen.
    pub(super) fn of_connection(&self) -> [u8; 16] {
        let number = self.next();
        self.code(b"connection", number, 0, None)
    }

    /// For the next join of this source over HTTP.
    pub(super) fn give(&self, now: Mono, ip: IpAddr) -> Nonce {
        let (number, period) = (self.next(), period(now));
        let code = self.code(b"request", number, period, Some(ip));
        let bytes = [&period.to_be_bytes()[..], &number.to_be_bytes(), &code].concat();
        Nonce::from_bytes(&bytes)
    }

    /// Whether a nonce was given to this source and its time is not over.
    pub(super) fn recognise(&self, now: Mono, ip: IpAddr, nonce: &Nonce) -> Option<Given> {
        let bytes = URL_SAFE_NO_PAD.decode(nonce.as_str()).ok()?;
        let (period_of, rest) = bytes.split_first_chunk()?;
        let (number, code) = rest.split_first_chunk()?;
        let given = Given {
            period: u64::from_be_bytes(*period_of),
            number: u64::from_be_bytes(*number),
        };
        let fresh = (given.period..=given.period.saturating_add(1)).contains(&period(now));
        let made = || self.code(b"request", given.number, given.period, Some(ip));
        let known = code.len() == CODE && bool::from(subtle::ConstantTimeEq::ct_eq(code, &made()));
        (fresh && known).then_some(given)
    }

    /// Uses a nonce up.
    pub(super) fn take(&self, now: Mono, given: Given) -> Use {
        let now = period(now);
        let mut state = self.lock();
        if now > state.period {
            let [latest, before] = &mut state.used;
            std::mem::swap(latest, before);
            latest.clear();
            if now > state.period + 1 {
                state.used[1].clear();
            }
            state.period = now;
        }
        // Time passes between recognising and using.
        let age = match state.period.checked_sub(given.period) {
            Some(age @ 0..=1) => age as usize,
            _ => return Use::Stale,
        };
        let used = &mut state.used[age];
        if used.contains(&given.number) {
            return Use::Stale;
        }
        if used.len() >= MOST {
            return Use::Full;
        }
        used.insert(given.number);
        Use::First
    }

    fn next(&self) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        state.last
    }

    fn code(&self, kind: &[u8], number: u64, period: u64, ip: Option<IpAddr>) -> [u8; CODE] {
        let mut mac = self.key.clone();
        mac.update(kind);
        mac.update(&number.to_be_bytes());
        mac.update(&period.to_be_bytes());
        if let Some(ip) = ip {
            mac.update(&Source::from(ip).octets());
        }
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        let (code, _) = whole.split_first_chunk().expect("32 are more than 16");
        *code
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the period in which this time lies.
const fn period(now: Mono) -> u64 {
    now.0 / (PERIOD * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Mono = Mono(PERIOD * 1_000_000 * 1000);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_is_good_once_for_its_source_and_its_time() {
        let nonces = Nonces::new(&[1; 32]);
        let own = ip("192.0.2.1");
        let nonce = nonces.give(T0, own);
        assert_ne!(nonce, nonces.give(T0, own));
        for later in [0, PERIOD, 2 * PERIOD - 1] {
            let given = nonces.recognise(T0.plus_secs(later), own, &nonce);
            assert!(given.is_some(), "{later}");
        }
        assert_eq!(
            nonces.recognise(T0.plus_secs(2 * PERIOD), own, &nonce),
            None
        );
        assert_eq!(nonces.recognise(Mono(T0.0 - 1), own, &nonce), None);
        assert_eq!(nonces.recognise(T0, ip("192.0.2.2"), &nonce), None);
        let restarted = Nonces::new(&[2; 32]);
        assert_eq!(restarted.recognise(T0, own, &nonce), None);
        let given = nonces.recognise(T0, own, &nonce).expect("its own");
        assert_eq!(nonces.take(T0, given), Use::First);
        for later in [0, 1, PERIOD, 2 * PERIOD, 100 * PERIOD] {
            let again = nonces.take(T0.plus_secs(later), given);
            assert_eq!(again, Use::Stale, "{later}");
        }
    }

    #[test]
    fn any_other_text_is_nobodys() {
        let nonces = Nonces::new(&[1; 32]);
        let own = ip("2001:db8::1");
        let nonce = nonces.give(T0, own);
        let neighbour = ip("2001:db8::ffff");
        assert!(nonces.recognise(T0, neighbour, &nonce).is_some());
        let bytes = URL_SAFE_NO_PAD.decode(nonce.as_str()).expect("base64url");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = Nonce::from_bytes(&changed);
            assert_eq!(nonces.recognise(T0, own, &changed), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            let cut = Nonce::from_bytes(&bytes[..length]);
            assert_eq!(nonces.recognise(T0, own, &cut), None, "{length} bytes");
        }
        let longer = Nonce::from_bytes(&[&bytes[..], &[0]].concat());
        assert_eq!(nonces.recognise(T0, own, &longer), None);
        let socket = Nonce::from_bytes(&nonces.of_connection());
        assert_eq!(nonces.recognise(T0, own, &socket), None);
        assert_ne!(nonces.of_connection(), nonces.of_connection());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_in_time() {
        let nonces = Nonces::new(&[1; 32]);
        let own = ip("192.0.2.1");
        let given = |now| {
            let nonce = nonces.give(now, own);
            nonces.recognise(now, own, &nonce).expect("its own")
        };
        for _ in 0..MOST {
            assert_eq!(nonces.take(T0, given(T0)), Use::First);
        }
        assert_eq!(nonces.take(T0, given(T0)), Use::Full);
        let next = T0.plus_secs(PERIOD);
        assert_eq!(nonces.take(next, given(next)), Use::First);
        let much_later = T0.plus_secs(9 * PERIOD);
        assert_eq!(nonces.take(much_later, given(much_later)), Use::First);
        let state = nonces.lock();
        assert_eq!(state.used.each_ref().map(BTreeSet::len), [1, 0]);
    }
}
