//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`: two messages, keyed by what follows from the access
//! key and by fresh Diffie-Hellman keys.

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, StatelessTransportState};
use zeroize::Zeroizing;

use crate::pairing::{Role, SessionId};

/// The length of both handshake messages: an ephemeral key and a tag.
pub(super) const LEN: usize = 32 + 16;

/// What both sides put into the transcript before the first message: name and version of the
/// protocol, the session, and who starts.
const PROLOGUE: &[u8] = b"turnserver datagrams v1 initiator receiver ";

/// Derives handshake states of one side.
pub(super) struct Keys {
    params: NoiseParams,
    psk: Zeroizing<[u8; 32]>,
    prologue: Vec<u8>,
}

impl Keys {
    pub(super) fn new(psk: &[u8; 32], session: SessionId) -> Self {
        let params = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse();
        Self {
            params: params.expect("a name that the library knows"),
            psk: Zeroizing::new(*psk),
            prologue: [PROLOGUE, &session.0].concat(),
        }
    }

    pub(super) fn state(&self, role: Role) -> HandshakeState {
        let builder = Builder::new(self.params.clone())
            .prologue(&self.prologue)
            .and_then(|builder| builder.psk(0, &self.psk));
        let built = builder.and_then(|builder| match role {
            Role::Initiator => builder.build_initiator(),
            Role::Receiver => builder.build_responder(),
        });
        built.expect("everything that the pattern needs is given")
    }

    /// The receiver's part: the second message and the keys, when the first message was made by
    /// the holder of the access key.
    pub(super) fn answer(&self, first: &[u8]) -> Option<([u8; LEN], Agreed)> {
        let mut state = self.state(Role::Receiver);
        state.read_message(first, &mut []).ok()?;
        Some((write(&mut state)?, Agreed::new(state)))
    }
}

/// The next message of a handshake.
pub(super) fn write(state: &mut HandshakeState) -> Option<[u8; LEN]> {
    let mut message = [0; LEN];
    let len = state.write_message(&[], &mut message).ok()?;
    (len == LEN).then_some(message)
}

/// What a finished handshake gives.
pub(super) struct Agreed {
    pub(super) transport: StatelessTransportState,
    /// Known to these two only, and only of this handshake.
    pub(super) binding: Zeroizing<[u8; 32]>,
}

impl Agreed {
    /// # Panics
    /// When the handshake is not finished.
    pub(super) fn new(state: HandshakeState) -> Self {
        let mut binding = Zeroizing::new([0; 32]);
        // The hash covers the pre-shared key, so nobody else can compute it.
        binding.copy_from_slice(state.get_handshake_hash());
        let transport = state.into_stateless_transport_mode();
        let transport = transport.expect("the second message ends the handshake");
        Self { transport, binding }
    }
}
