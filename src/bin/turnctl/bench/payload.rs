//! What is sent: a header that names the packet, and a pattern that follows from its number.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | tag of the measurement |
//! | 4..8 | flow: bit 31 is set downward, bit 30 while warming up, the rest is the allocation |
//! | 8..12 | sequence number in the flow, from 0 |
//! | 12..16 | check of the rest of the header |
//! | 16..24 | time of sending, nanoseconds |
//! | 24.. | pattern |

/// Length of the header in bytes: the shortest payload.
pub(super) const HEADER: usize = 24;
/// The longest payload.
const MOST: usize = 9000;
const PATTERN: usize = 1 << 16;

/// Allocations that a header can name.
pub(super) const FLOWS: u32 = 1 << 30;

/// One packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: u32,
    pub(super) down: bool,
    pub(super) warm_up: bool,
    /// Below [`FLOWS`].
    pub(super) flow: u32,
    pub(super) sequence: u32,
    /// Nanoseconds since the start of the program.
    pub(super) sent: u64,
}

/// The bytes that patterns are cut from.
pub(super) struct Pattern(Box<[u8]>);

impl Pattern {
    pub(super) fn new() -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let bytes = std::iter::repeat_with(|| {
            // xorshift64*: any bytes without a short period will do.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
        });
        Self(bytes.take(PATTERN + MOST).collect())
    }

    fn of(&self, header: &Header, len: usize) -> &[u8] {
        let start = mix(u64::from(header.tag) << 32 | u64::from(header.sequence));
        let start = (start ^ header.flow.wrapping_mul(0x9E37)) as usize % PATTERN;
        &self.0[start..start + len]
    }

    /// Fills `out` with a packet.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER`] or longer than the longest payload.
    pub(super) fn write(&self, out: &mut [u8], header: &Header) {
        let (head, body) = out
            .split_first_chunk_mut::<HEADER>()
            .expect("a payload has a header");
        let flow = u32::from(header.down) << 31 | u32::from(header.warm_up) << 30 | header.flow;
        head[0..4].copy_from_slice(&header.tag.to_be_bytes());
        head[4..8].copy_from_slice(&flow.to_be_bytes());
        head[8..12].copy_from_slice(&header.sequence.to_be_bytes());
        head[12..16].copy_from_slice(&check(header, flow).to_be_bytes());
        head[16..24].copy_from_slice(&header.sent.to_be_bytes());
        body.copy_from_slice(self.of(header, body.len()));
    }

    /// Reads a packet of `size` bytes; `None` when any bit of it is not as it was sent.
    pub(super) fn read(&self, bytes: &[u8], size: usize) -> Option<Header> {
        let (head, body) = bytes.split_first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let flow = word(4);
        let header = Header {
            tag: word(0),
            down: flow >> 31 != 0,
            warm_up: flow >> 30 & 1 != 0,
            flow: flow & (FLOWS - 1),
            sequence: word(8),
            sent: u64::from(word(16)) << 32 | u64::from(word(20)),
        };
        let whole = bytes.len() == size
            && word(12) == check(&header, flow)
            && *body == *self.of(&header, body.len());
        whole.then_some(header)
    }
}

fn check(header: &Header, flow: u32) -> u32 {
    let names = u64::from(header.tag) << 32 | u64::from(flow);
    mix(names) ^ mix(header.sent ^ u64::from(header.sequence) << 40)
}

/// Spreads every input bit over the result.
fn mix(value: u64) -> u32 {
    let value = (value ^ value >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let value = (value ^ value >> 33).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    (value >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let pattern = Pattern::new();
        let header = Header {
            tag: 7,
            down: true,
            warm_up: false,
            flow: 123_456,
            sequence: 99,
            sent: 1 << 40,
        };
        let mut packet = [0; 172];
        pattern.write(&mut packet, &header);
        assert_eq!(pattern.read(&packet, 172), Some(header));
        for bit in 0..8 * packet.len() {
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(pattern.read(&packet, 172), None, "bit {bit}");
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(pattern.read(&packet[..171], 172), None);
        assert_eq!(pattern.read(&packet[..3], 172), None);
    }

    #[test]
    fn neighbours_differ() {
        let pattern = Pattern::new();
        let mut packets = [[0; 64]; 3];
        for (sequence, packet) in (0..).zip(&mut packets) {
            let header = Header {
                tag: 1,
                down: false,
                warm_up: true,
                flow: 0,
                sequence,
                sent: 0,
            };
            pattern.write(packet, &header);
        }
        assert_ne!(packets[0][HEADER..], packets[1][HEADER..]);
        assert_ne!(packets[1][HEADER..], packets[2][HEADER..]);
    }
}
