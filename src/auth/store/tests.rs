use std::cell::Cell;

use super::*;
use crate::auth::{PairMint, PairSecrets, mint};
use crate::proto::pairs::{PairId, PairScope};
use crate::wire::{Builder, Class, Integrity, Message, Method, TransactionId};

const REALM: &str = "example.org";
const T: u64 = 1_790_000_000;
const MD5: PasswordAlgorithm = PasswordAlgorithm::Md5;
const SHA256: PasswordAlgorithm = PasswordAlgorithm::Sha256;

fn store(users: &[(&str, &str)], secrets: &[&str], options: RestOptions) -> CredentialStore {
    let secrets = secrets.iter().map(|secret| secret.as_bytes());
    CredentialStore::new(REALM, users.iter().copied(), secrets, options).unwrap()
}

fn both() -> CredentialStore {
    let users = [("user-1", "pass-1"), ("user-2", "pass-2")];
    store(&users, &["new", "old"], RestOptions::default())
}

/// What a client that knows this name and password would prove, and how many checks it took.
fn attempt(
    store: &CredentialStore,
    claim: UserClaim<'_>,
    algorithm: PasswordAlgorithm,
    unix: u64,
    (name, password): (&str, &str),
) -> (Option<Identity>, u32) {
    let key = Key::long_term(
        algorithm,
        name.as_bytes(),
        REALM.as_bytes(),
        password.as_bytes(),
    );
    let mut request = [0; 64];
    let mut builder = Builder::new(
        &mut request,
        Class::Request,
        Method::REFRESH,
        TransactionId([9; 12]),
    );
    builder.integrity(Integrity::Sha1, &key);
    let len = builder.finish().unwrap();
    let message = Message::parse(&request[..len]).unwrap();
    let checks = Cell::new(0);
    let identity = store.authenticate(claim, algorithm, unix, &mut |key| {
        checks.set(checks.get() + 1);
        message.verify(key).is_ok()
    });
    (identity, checks.get())
}

fn log_in(store: &CredentialStore, unix: u64, name: &str, password: &str) -> Option<Identity> {
    let claim = UserClaim::Name(name.as_bytes());
    let results =
        [MD5, SHA256].map(|algorithm| attempt(store, claim, algorithm, unix, (name, password)).0);
    assert_eq!(results[0].is_some(), results[1].is_some());
    let [identity, _] = results;
    identity
}

#[test]
fn static_users_get_in_with_their_own_password_only() {
    let store = both();
    let identity = log_in(&store, T, "user-2", "pass-2").unwrap();
    assert_eq!(&*identity.username, "user-2");
    assert_eq!(&*identity.user_id, "user-2");
    assert_eq!(identity.expires, None);
    assert!(log_in(&store, T, "user-1", "pass-2").is_none());
    assert!(log_in(&store, T, "user-3", "pass-1").is_none());
    assert!(log_in(&store, T, "", "").is_none(), "nobody is nobody");
}

#[test]
fn many_users_are_all_found_and_no_others() {
    let names: Vec<String> = (0..1000).map(|i| format!("user-{i}")).collect();
    let users: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "same")).collect();
    let store = store(&users, &[], RestOptions::default());
    assert_eq!(store.static_users(), 1000);
    for name in &names {
        assert_eq!(&*log_in(&store, T, name, "same").unwrap().username, name);
        assert!(log_in(&store, T, &format!("x{name}"), "same").is_none());
    }
}

#[test]
fn userhash_finds_static_users_only() {
    let store = both();
    let by_hash = |name: &str, password: &str| {
        let hash = userhash(name.as_bytes(), REALM.as_bytes());
        attempt(&store, UserClaim::Hash(&hash), SHA256, T, (name, password)).0
    };
    assert_eq!(&*by_hash("user-1", "pass-1").unwrap().username, "user-1");
    assert!(by_hash("user-1", "wrong").is_none());
    assert!(by_hash("user-9", "pass-1").is_none());
    assert!(by_hash("", "").is_none());
    let (name, password) = mint(Some("eve"), 60, b"new", T, false);
    assert!(by_hash(&name, &password).is_none());
}

#[test]
fn anonymity_is_offered_only_when_every_user_can_be_found() {
    let options = RestOptions::default();
    assert!(store(&[("a", "b")], &[], options).supports_userhash());
    assert!(!both().supports_userhash());
    assert!(!store(&[], &["s"], options).supports_userhash());
}

#[test]
fn each_secret_of_a_rotation_is_accepted() {
    let store = both();
    for secret in ["new", "old"] {
        let (name, password) = mint(Some("alice"), 60, secret.as_bytes(), T, false);
        let identity = log_in(&store, T, &name, &password).expect(secret);
        assert_eq!(&*identity.username, &*name);
        assert_eq!(&*identity.user_id, "alice");
        assert_eq!(identity.expires, Some(T + 60));
    }
    let (name, password) = mint(Some("alice"), 60, b"other", T, false);
    assert!(log_in(&store, T, &name, &password).is_none());
}

#[test]
fn all_username_forms_carry_the_user_for_quotas() {
    let store = both();
    let expiry = T + 60;
    let forms = [
        (format!("{expiry}"), format!("{expiry}")),
        (format!("{expiry}:bob"), "bob".to_owned()),
        (format!("bob:{expiry}"), "bob".to_owned()),
    ];
    for (name, user) in forms {
        let password = crate::wire::rest_password(b"new", name.as_bytes(), false);
        let identity = log_in(&store, T, &name, &password).expect(&name);
        assert_eq!(&*identity.user_id, user);
    }
    let name = "bob";
    let password = crate::wire::rest_password(b"new", name.as_bytes(), false);
    assert!(
        log_in(&store, T, name, &password).is_none(),
        "no expiry, no entry"
    );
}

#[test]
fn expiry_is_exact_unless_leeway_is_configured() {
    let (name, password) = mint(Some("alice"), 0, b"s", T, false);
    let exact = store(&[], &["s"], RestOptions::default());
    assert!(log_in(&exact, T - 1, &name, &password).is_some());
    assert!(log_in(&exact, T, &name, &password).is_none());
    let options = RestOptions {
        leeway: 10,
        sha256: false,
    };
    let lenient = store(&[], &["s"], options);
    assert!(log_in(&lenient, T + 9, &name, &password).is_some());
    assert!(log_in(&lenient, T + 10, &name, &password).is_none());
}

#[test]
fn sha256_passwords_when_configured() {
    let options = RestOptions {
        leeway: 0,
        sha256: true,
    };
    let store = store(&[], &["s"], options);
    let (name, password) = mint(None, 60, b"s", T, true);
    assert!(log_in(&store, T, &name, &password).is_some());
    let (name, password) = mint(None, 60, b"s", T, false);
    assert!(log_in(&store, T, &name, &password).is_none());
}

#[test]
fn a_static_user_may_look_like_a_time_limited_one() {
    let store = store(&[("17:robot", "pass")], &["s"], RestOptions::default());
    let identity = log_in(&store, T, "17:robot", "pass").unwrap();
    assert_eq!(&*identity.user_id, "17:robot");
    assert_eq!(identity.expires, None);
}

#[test]
fn names_that_are_no_text_are_unknown() {
    let (identity, checks) = attempt(&both(), UserClaim::Name(b"\xff\xfe"), MD5, T, ("a", "b"));
    assert!(identity.is_none());
    assert_eq!(checks, 3);
}

#[test]
fn every_refusal_costs_the_same_number_of_checks() {
    let store = both();
    let expired = mint(Some("a"), 0, b"new", T, false).0;
    let live = mint(Some("a"), 60, b"new", T, false).0;
    for name in ["user-1", "unknown", &expired, &live, "", "17:", ":"] {
        for algorithm in [MD5, SHA256] {
            let claim = UserClaim::Name(name.as_bytes());
            let (identity, checks) = attempt(&store, claim, algorithm, T, (name, "wrong"));
            assert!(identity.is_none());
            assert_eq!(checks, 3, "{name:?}: one static, two secrets");
        }
    }
    for name in ["user-1", "unknown"] {
        let hash = userhash(name.as_bytes(), REALM.as_bytes());
        let (_, checks) = attempt(&store, UserClaim::Hash(&hash), SHA256, T, (name, "wrong"));
        assert_eq!(checks, 1);
    }
}

#[test]
fn an_expired_credential_is_refused_though_its_key_matches() {
    // Also when its check says yes, and so does the one of the next secret.
    let store = store(&[], &["s", "s"], RestOptions::default());
    let (name, password) = mint(None, 0, b"s", T, false);
    let claim = UserClaim::Name(name.as_bytes());
    let (identity, checks) = attempt(&store, claim, MD5, T, (&name, &password));
    assert!(identity.is_none());
    assert_eq!(checks, 2);
}

const SIDES: [std::net::IpAddr; 2] = [
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)),
];

#[test]
fn a_pairs_name_resolves_with_the_pairs_secrets_only() {
    let secrets = PairSecrets::new([&b"new"[..], b"old"], &[0; 32]);
    let pairs = PairMint::new(&secrets);
    let store = both().with_pairs(secrets);
    let (name, password) = pairs.mint(T, 60, &[7; 16], true, SIDES);
    let identity = log_in(&store, T, &name, &password).expect("minted here");
    let pair = PairId::of_session(&[7; 16]);
    assert_eq!(
        identity.pair.as_deref(),
        Some(&PairScope::paired(pair, SIDES))
    );
    let (waits, secret) = pairs.waiting(T, 60, &[7; 16]);
    let waiting = log_in(&store, T, &waits, &secret).expect("minted here");
    assert_eq!(waiting.pair.as_deref(), Some(&PairScope::waiting(pair)));
    assert_eq!(waiting.user_id, identity.user_id, "one user for quotas");
    assert_eq!(identity.expires, Some(T + 60));
    assert_eq!(&*identity.username, name);
    assert!(identity.user_id.starts_with("pair:") && identity.user_id.ends_with(":i"));
    // To the second, whatever leeway other credentials have.
    assert!(log_in(&store, T + 59, &name, &password).is_some());
    assert!(log_in(&store, T + 60, &name, &password).is_none());
    // A server that minted with the second secret is believed, too.
    let old = PairMint::new(&PairSecrets::new([&b"old"[..]], &[0; 32]));
    let (name, password) = old.mint(T, 60, &[7; 16], false, SIDES);
    assert!(log_in(&store, T, &name, &password).is_some());
    // The shared secret itself makes no credentials of pairs, also not with a user's name.
    let forged = crate::wire::rest_password(b"new", name.as_bytes(), false);
    assert!(log_in(&store, T, &name, &forged).is_none());
    let claim = UserClaim::Name(name.as_bytes());
    let (identity, checks) = attempt(&store, claim, MD5, T, (&name, "wrong"));
    assert!(identity.is_none());
    assert_eq!(checks, 2, "one for each secret of pairs");
    // And those of pairs make no others.
    let (ordinary, _) = mint(Some("a"), 60, b"new", T, false);
    assert!(log_in(&store, T, &ordinary, &password).is_none());
    let identity = log_in(&store, T, "user-1", "pass-1").expect("a static user");
    assert_eq!(identity.pair, None);
}

#[test]
fn pairs_alone_are_no_open_relay_and_are_not_found_by_userhash() {
    let secrets = PairSecrets::new([], &[5; 32]);
    let pairs = PairMint::new(&secrets);
    let empty = store(&[], &[], RestOptions::default());
    assert!(empty.is_empty());
    let store = empty.with_pairs(secrets.clone());
    assert!(!store.is_empty());
    let (name, password) = pairs.mint(T, 60, &[7; 16], true, SIDES);
    assert!(log_in(&store, T, &name, &password).is_some());
    for name in ["", "anybody", "1900000000", "1900000000:a"] {
        assert!(log_in(&store, T, name, &password).is_none(), "{name}");
    }
    assert!(!store.supports_userhash());
    let users = self::store(&[("a", "pass-a")], &[], RestOptions::default());
    assert!(users.supports_userhash());
    assert!(!users.with_pairs(secrets).supports_userhash());
}

#[test]
fn names_and_passwords_are_brought_into_opaque_form() {
    let store = store(
        &[("Zoe\u{308}", "ﬁn\u{2003}x")],
        &[],
        RestOptions::default(),
    );
    assert!(log_in(&store, T, "Zo\u{eb}", "ﬁn x").is_some());
}

#[test]
fn unusable_credentials_are_named() {
    let no_secrets: [&[u8]; 0] = [];
    let new = |realm: &str, users: &[(&str, &str)]| {
        CredentialStore::new(
            realm,
            users.iter().copied(),
            no_secrets,
            RestOptions::default(),
        )
        .unwrap_err()
    };
    let long = "x".repeat(509);
    assert_eq!(new("", &[]), StoreError::Realm(OpaqueError::Empty));
    assert_eq!(new(&"r".repeat(128), &[]), StoreError::RealmForm);
    assert_eq!(new("a\"b", &[]), StoreError::RealmForm);
    assert_eq!(
        new("r", &[("a", "")]),
        StoreError::Password("a".into(), OpaqueError::Empty)
    );
    assert_eq!(
        new("r", &[("a\n", "x")]),
        StoreError::Name("a\n".into(), OpaqueError::Control)
    );
    assert_eq!(
        new("r", &[(&long, "x")]),
        StoreError::NameLength(long.clone())
    );
    assert_eq!(
        new("r", &[("e\u{301}", "x"), ("\u{e9}", "y")]),
        StoreError::Twice("\u{e9}".into()),
        "the same name in two notations"
    );
    let empty: [&[u8]; 1] = [b""];
    let error = CredentialStore::new("r", [], empty, RestOptions::default()).unwrap_err();
    assert_eq!(error, StoreError::EmptySecret);
}

#[test]
fn debug_shows_no_secret() {
    let store = store(
        &[("alice", "hunter2")],
        &["northstar"],
        RestOptions::default(),
    );
    let shown = format!("{store:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("northstar"),
        "{shown}"
    );
}
