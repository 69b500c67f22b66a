//! Bytes and messages: STUN, TURN and ChannelData on the wire.
//!
//! The types below are borrowed views of received bytes and builders into the caller's slices:
//! nothing here allocates while parsing or building.
#[derive(Debug)]
pub struct Key;
#[derive(Clone, Copy)]
pub enum PasswordAlgorithm {
    Md5,
    Sha256,
}
