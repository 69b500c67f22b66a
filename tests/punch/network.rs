//! How a packet travels from one side through the NATs to the other.

use super::*;

impl World {
    /// A packet that reaches the other side without leaving the place where both are.
    fn push_near(&mut self, side: usize, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let soon = self.now + Duration::from_millis(1);
        let item = Item::Near {
            side,
            from,
            to,
            bytes,
        };
        self.push(soon, item);
    }

    /// To whom a packet comes in the end.
    pub(super) fn route_in(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        mut ttl: u8,
    ) -> Option<(usize, SocketAddr)> {
        for at in [0, 1] {
            let side = &self.sides[at];
            if side.blocked {
                continue;
            }
            let owns = |address| side.sockets.iter().any(|(_, own)| *own == address);
            let chain = side.chain(to);
            let here = match chain.last() {
                Some(&outer) if to.is_ipv4() => self.nats[outer].external == to.ip(),
                _ => owns(to),
            };
            if !here {
                continue;
            }
            let mut to = to;
            for nat in chain.into_iter().rev() {
                to = self.nats[nat].inbound(self.now, from, to)?;
                ttl = ttl.checked_sub(1).filter(|ttl| *ttl > 0)?;
            }
            let owner = |at: &usize| self.sides[*at].sockets.iter().any(|(_, own)| *own == to);
            return (0..2).find(owner).map(|owner| (owner, to));
        }
        None
    }

    pub(super) fn deliver(&mut self, side: usize, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        if let Some(awake) = self.sides[side].asleep_until.filter(|awake| *awake > now) {
            // It lies in the socket. Timers come first when the process goes on.
            let bytes = bytes.to_vec();
            let item = Item::Near {
                side,
                from,
                to,
                bytes,
            };
            return self.push(awake + Duration::from_millis(1), item);
        }
        let side = &mut self.sides[side];
        let socket = side.sockets.iter().find(|(_, own)| *own == to);
        let Some(&(number, _)) = socket else { return };
        let via = Via::Socket(number);
        if bytes == DATA {
            side.received.push((now, via, Some(from)));
            side.agent.note_received(now, via, from);
        } else {
            assert_eq!(side.agent.handle(now, via, from, bytes), Handled::Consumed);
        }
    }

    pub(super) fn is_lost(&mut self) -> bool {
        // Two states; `loss` of the time is spent in the losing one.
        let leave = 1.0 / self.net.burst;
        let enter = self.net.loss / (1.0 - self.net.loss) * leave;
        self.losing = if self.losing {
            !self.dice.chance(leave)
        } else {
            self.dice.chance(enter)
        };
        self.losing
    }

    pub(super) fn send(&mut self, at: usize, transmit: Transmit) {
        let Transmit {
            via,
            to,
            ttl,
            bytes,
        } = transmit;
        let Via::Socket(number) = via else {
            panic!("nothing goes over the relay");
        };
        let side = &self.sides[at];
        let socket = side.sockets.iter().find(|(own, _)| *own == number);
        let mut from = socket.expect("a socket that is open").1;
        if let Some(tap) = &mut self.tap {
            tap.push((from, to, bytes.clone()));
        }
        let mut ttl = ttl.unwrap_or(64);
        if self.together == Together::Near
            && to.is_ipv4()
            && self.sides[1 - at].sockets.iter().any(|(_, own)| *own == to)
        {
            return self.push_near(1 - at, from, to, bytes);
        }
        if self.sides[at].blocked || from.is_ipv4() != to.is_ipv4() {
            return;
        }
        for nat in self.sides[at].chain(to) {
            ttl -= 1;
            if ttl == 0 {
                return;
            }
            from = self.nats[nat].outbound(self.now, from, to, &mut self.dice);
            if self.nats[nat].external == to.ip() {
                if self.together == Together::Hairpin
                    && let Some(inside) = self.nats[nat].inbound(self.now, from, to)
                {
                    self.push_near(1 - at, from, inside, bytes);
                }
                return;
            }
        }
        // The router between the two.
        ttl -= 1;
        if ttl == 0 || self.cut || self.is_lost() {
            return;
        }
        let jitter = Duration::from_micros(self.dice.below(2000));
        let arrives = self.now + self.net.latency + jitter;
        self.push(
            arrives,
            Item::Arrive {
                from,
                to,
                ttl,
                bytes,
            },
        );
    }
}
