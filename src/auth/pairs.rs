//! Credentials that are bound to a pair of devices, which the pairing endpoint hands out: user
//! names `EXPIRY:pair:SESSION:i:BORN:INITIATOR:RECEIVER`, with `r` in place of `i` for the
//! receiver. SESSION is the 16 bytes of the session, BORN the Unix time when it began, INITIATOR
//! and RECEIVER the IP addresses from which the server saw the two; bytes are in base64url. The
//! password is made as for other time-limited credentials, with HMAC-SHA1, from a secret of its
//! own, so that nobody who may mint one kind can mint the other, or change anything in a name.
//!
//! Whoever has valid ones can have them renewed, up to the age that a pair may have: all but the
//! EXPIRY stays. Nothing is remembered for that. An initiator that still waits has
//! `EXPIRY:pair:SESSION:i:wait`, which is not renewed.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::rest::seconds;
use crate::proto::credentials::Identity;
use crate::proto::pairs::{PairId, PairScope};
use crate::wire::{Key, PasswordAlgorithm, rest_password};

/// Keeps what is derived here apart from all else that a shared secret is used for.
const SALT: &[u8] = b"turnserver pair credentials v1";

type Secret = Zeroizing<[u8; 32]>;

/// The secrets that credentials of pairs are made from. All are accepted, the first one mints.
#[derive(Clone, Default)]
pub struct PairSecrets(Vec<Secret>);

impl fmt::Debug for PairSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairSecrets({})", self.0.len())
    }
}

impl PairSecrets {
    /// Derived from the shared secrets of time-limited credentials, so that servers which share
    /// those accept each other's pairs; without any, `random` itself.
    pub fn new<'a>(shared: impl IntoIterator<Item = &'a [u8]>, random: &[u8; 32]) -> Self {
        let derive = |secret: &[u8]| {
            let mut out = Secret::default();
            Hkdf::<Sha256>::new(Some(SALT), secret)
                .expand(b"", &mut *out)
                .expect("fewer than 255 blocks");
            out
        };
        let mut secrets: Vec<Secret> = shared.into_iter().map(derive).collect();
        if secrets.is_empty() {
            secrets.push(Secret::new(*random));
        }
        Self(secrets)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tries the key that each secret gives for `name`. An expired name costs the same.
    pub(super) fn authenticate(
        &self,
        name: &PairName<'_>,
        realm: &str,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        for secret in &self.0 {
            let user = name.text.as_bytes();
            let password = Key::from_bytes(&**secret).rest_password(user, false);
            let key = Key::long_term(algorithm, user, realm.as_bytes(), password.as_bytes());
            if check(&key) && unix < name.expiry {
                return Some(Identity {
                    username: name.text.into(),
                    user_id: name.user.into(),
                    key: Arc::new(key),
                    expires: Some(name.expiry),
                    pair: Some(Arc::new(name.scope())),
                });
            }
        }
        None
    }
}

/// A user name of one side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairName<'a> {
    text: &'a str,
    /// Unix time in seconds.
    expiry: u64,
    /// All behind the expiry.
    rest: &'a str,
    /// What quotas count: a side of a session.
    user: &'a str,
    session: [u8; 16],
    initiator: bool,
    /// Of one that is paired.
    paired: Option<Paired>,
}

/// What the name of one that is paired says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Paired {
    /// Unix time in seconds.
    born: u64,
    sides: [IpAddr; 2],
}

/// What is behind the side in the name of one that waits.
const WAITS: &str = "wait";

impl<'a> PairName<'a> {
    /// Reads the two forms that there are; anything else is no name of a pair.
    pub(super) fn parse(name: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        let (expiry, rest) = text.split_once(':')?;
        let (session, behind) = rest.strip_prefix("pair:")?.split_once(':')?;
        let (side, behind) = behind.split_once(':')?;
        let initiator = match side {
            "i" => true,
            "r" => false,
            _ => return None,
        };
        let paired = match behind {
            WAITS if initiator => None,
            _ => Some(Paired::parse(behind)?),
        };
        Some(Self {
            text,
            expiry: seconds(expiry)?,
            rest,
            user: &rest[..rest.len() - behind.len() - 1],
            session: URL_SAFE_NO_PAD.decode(session).ok()?.try_into().ok()?,
            initiator,
            paired,
        })
    }

    fn scope(&self) -> PairScope {
        let pair = PairId::of_session(&self.session);
        match self.paired {
            Some(Paired { sides, .. }) => PairScope::paired(pair, sides),
            None => PairScope::waiting(pair),
        }
    }
}

impl Paired {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let born = seconds(parts.next()?)?;
        let sides = [parts.next()?, parts.next()?];
        let [Some(initiator), Some(receiver)] = sides.map(read_address) else {
            return None;
        };
        parts.next().is_none().then_some(Self {
            born,
            sides: [initiator, receiver],
        })
    }
}

fn read_address(text: &str) -> Option<IpAddr> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    if let Ok(v4) = <[u8; 4]>::try_from(&*bytes) {
        return Some(v4.into());
    }
    Some(<[u8; 16]>::try_from(&*bytes).ok()?.into())
}

fn written(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => URL_SAFE_NO_PAD.encode(ip.octets()),
        IpAddr::V6(ip) => URL_SAFE_NO_PAD.encode(ip.octets()),
    }
}

/// Makes credentials of pairs. One for the process; a reload replaces its secrets.
pub struct PairMint(RwLock<PairSecrets>);

/// Credentials of one side of a pair, made in place of others.
#[derive(Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Names the pair.
    pub session: [u8; 16],
    /// Which side of it.
    pub initiator: bool,
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
    /// For how many seconds they are good.
    pub ttl_s: u64,
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewed({}, {} s)", self.username, self.ttl_s)
    }
}

impl fmt::Debug for PairMint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairMint(…)")
    }
}

impl PairMint {
    /// A mint whose credentials a store with these secrets accepts.
    pub fn new(secrets: &PairSecrets) -> Arc<Self> {
        let mint = Self(RwLock::default());
        mint.replace(secrets);
        Arc::new(mint)
    }

    /// Mints with other secrets from now on.
    pub fn replace(&self, secrets: &PairSecrets) {
        if !secrets.is_empty() {
            self.0
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .clone_from(secrets);
        }
    }

    /// The password of a name. There is a first secret: stores without any have no mint.
    fn password(&self, username: &str) -> String {
        let secrets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let secret = secrets.0.first().map_or(&[][..], |secret| &**secret);
        rest_password(secret, username.as_bytes(), false)
    }

    /// Makes new credentials for the side of a pair whose valid ones are shown, good for `ttl_s`
    /// seconds from `unix_now`, but not beyond `lifetime_s` seconds after it was paired. `None`
    /// when they are not valid (any more), are those of one that waits, or that time is up.
    pub fn renew(
        &self,
        unix_now: u64,
        ttl_s: u64,
        lifetime_s: u64,
        shown: (&str, &str),
    ) -> Option<Renewed> {
        let (username, password) = shown;
        let name = PairName::parse(username.as_bytes()).filter(|name| unix_now < name.expiry)?;
        let secrets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let made_here = |secret: &Secret| {
            let made = rest_password(&**secret, username.as_bytes(), false);
            bool::from(made.as_bytes().ct_eq(password.as_bytes()))
        };
        if !secrets.0.iter().any(made_here) {
            return None;
        }
        drop(secrets);
        let end = name.paired?.born.saturating_add(lifetime_s);
        let expiry = unix_now.saturating_add(ttl_s).min(end);
        if expiry <= unix_now {
            return None;
        }
        let username = format!("{expiry}:{}", name.rest);
        Some(Renewed {
            session: name.session,
            initiator: name.initiator,
            password: self.password(&username),
            username,
            ttl_s: expiry - unix_now,
        })
    }

    /// A user name and password of an initiator that waits for the other side of a session, valid
    /// for `ttl_s` seconds from the Unix time `unix_now`.
    pub fn waiting(&self, unix_now: u64, ttl_s: u64, session: &[u8; 16]) -> (String, String) {
        let expiry = unix_now.saturating_add(ttl_s);
        let session = URL_SAFE_NO_PAD.encode(session);
        self.with_password(format!("{expiry}:pair:{session}:i:{WAITS}"))
    }

    /// A user name and password of one side of a session, valid for `ttl_s` seconds from the
    /// Unix time `unix_now`. `sides`: from where the initiator and the receiver were seen.
    pub fn mint(
        &self,
        unix_now: u64,
        ttl_s: u64,
        session: &[u8; 16],
        initiator: bool,
        sides: [IpAddr; 2],
    ) -> (String, String) {
        let expiry = unix_now.saturating_add(ttl_s);
        let session = URL_SAFE_NO_PAD.encode(session);
        let side = if initiator { 'i' } else { 'r' };
        let [one, two] = sides.map(written);
        self.with_password(format!(
            "{expiry}:pair:{session}:{side}:{unix_now}:{one}:{two}"
        ))
    }

    fn with_password(&self, username: String) -> (String, String) {
        let password = self.password(&username);
        (username, password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    ];

    #[test]
    fn there_are_two_forms_of_a_name() {
        let session = URL_SAFE_NO_PAD.encode([7; 16]);
        let sides = format!("{}:{}", written(SIDES[0]), written(SIDES[1]));
        let name = format!("1700000000:pair:{session}:r:1600000000:{sides}");
        let parsed = PairName::parse(name.as_bytes()).expect("a pair's name");
        assert_eq!((parsed.expiry, parsed.session), (1_700_000_000, [7; 16]));
        assert_eq!(parsed.user, format!("pair:{session}:r"));
        let paired = parsed.paired.expect("it is paired");
        assert_eq!((paired.born, paired.sides), (1_600_000_000, SIDES));
        assert!(!parsed.initiator && !parsed.scope().is_waiting());
        assert!(parsed.scope().allows(SIDES[1]));
        let waits = format!("1700000000:pair:{session}:i:wait");
        let parsed = PairName::parse(waits.as_bytes()).expect("a pair's name");
        assert!(parsed.initiator && parsed.scope().is_waiting());
        assert_eq!(parsed.user, format!("pair:{session}:i"));
        for other in [
            format!("pair:{session}:i:1700000000:{sides}"),
            format!("1700000000:pair:{session}:r:wait"),
            format!("{waits}:1"),
            format!("{waits}s"),
            format!("{name}:1"),
            format!("1700000000:pair:{session}:r:{sides}"),
            format!("1700000000:pair:{session}:r:x:{sides}"),
            format!(
                "1700000000:pair:{session}:r:1600000000:{}",
                written(SIDES[0])
            ),
            format!("1700000000:pair:{session}:r:1600000000:AAAA:AAAA"),
            format!("1700000000:pair:{session}:x:1600000000:{sides}"),
            format!("1700000000:pair:{session}:ir:1600000000:{sides}"),
            format!("1700000000:pair:{session}:r"),
            format!("1700000000:pair:{session}"),
            format!("1700000000:pair:{session}A:i:wait"),
            format!("1700000000:pair:{}:i:wait", &session[1..]),
            format!("+{waits}"),
            format!("1700000000:Pair:{session}:i:wait"),
            "1700000000:alice".into(),
        ] {
            assert_eq!(PairName::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn who_has_valid_credentials_gets_new_ones_until_the_pair_is_too_old() {
        const T: u64 = 1_700_000_000;
        let secrets = PairSecrets::new([&b"new"[..], b"old"], &[0; 32]);
        let mint = PairMint::new(&secrets);
        let old = PairMint::new(&PairSecrets::new([&b"old"[..]], &[0; 32]));
        let session = [7; 16];
        let renew = |now, (name, password): &(String, String)| {
            mint.renew(now, 60, 200, (name.as_str(), password.as_str()))
        };
        let rest = |name: &str| name.split_once(':').map(|named| named.1.to_owned());
        let mut shown = old.mint(T, 60, &session, true, SIDES);
        for (now, ttl_s) in [(T + 50, 60), (T + 100, 60), (T + 150, 50), (T + 199, 1)] {
            let renewed = renew(now, &shown).expect("valid ones were shown");
            assert_eq!(renewed.ttl_s, ttl_s);
            assert_eq!((renewed.session, renewed.initiator), (session, true));
            assert!(renewed.username.contains(":1700000000:"));
            assert_eq!(rest(&renewed.username), rest(&shown.0), "the same scope");
            shown = (renewed.username, renewed.password);
        }
        assert_eq!(renew(T + 200, &shown), None, "expired, and too old");

        let valid = mint.mint(T, 60, &session, false, SIDES);
        assert!(renew(T + 59, &valid).is_some());
        assert_eq!(renew(T + 60, &valid), None, "expired");
        assert_eq!(renew(T, &(valid.0.clone(), "wrong".into())), None);
        for (what, other) in [
            (":r:", ":i:".to_owned()),
            (":1700000000:", format!(":{}:", T + 1000)),
            (&*written(SIDES[0]), written([192, 0, 2, 9].into())),
        ] {
            let forged = valid.0.replace(what, &other);
            assert_ne!(forged, valid.0);
            assert_eq!(renew(T, &(forged, valid.1.clone())), None, "all is signed");
        }
        let other = PairMint::new(&PairSecrets::new([&b"x"[..]], &[0; 32]));
        assert_eq!(renew(T, &other.mint(T, 60, &session, true, SIDES)), None);
        assert_eq!(renew(T, &("1800000000:alice".into(), String::new())), None);
        let waits = mint.waiting(T, 60, &session);
        assert_eq!(renew(T, &waits), None, "it is not paired yet");
    }

    #[test]
    fn secrets_differ_from_what_they_are_derived_from_and_show_nothing() {
        let shared: [&[u8]; 2] = [b"north", b"south"];
        let secrets = PairSecrets::new(shared, &[9; 32]);
        assert_eq!(secrets.0.len(), 2);
        assert_ne!(*secrets.0[0], *secrets.0[1]);
        let mint = PairMint::new(&secrets);
        let (name, password) = mint.waiting(1_700_000_000, 60, &[7; 16]);
        assert!(name.starts_with("1700000060:pair:") && name.ends_with(":i:wait"));
        assert_ne!(password, rest_password(b"north", name.as_bytes(), false));
        let random = PairSecrets::new([], &[9; 32]);
        assert_eq!(*random.0[0], [9; 32]);
        mint.replace(&random);
        let (_, other) = mint.waiting(1_700_000_000, 60, &[7; 16]);
        assert_ne!(password, other);
        assert!(!format!("{mint:?} {random:?}").contains('9'));
    }
}
