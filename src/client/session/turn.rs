//! A session's turn on the way to the pairing server. Many sessions of a host share that way, and
//! who only looked now and then whether there is room would find it taken again and again, while
//! others get it.

use std::pin::Pin;

use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::mpsc::{OwnedPermit, Sender};

use crate::pairing::ClientMessage;

type Room = OwnedPermit<ClientMessage>;
type Waiting = Pin<Box<dyn Future<Output = Result<Room, SendError<()>>> + Send>>;

/// Waits in line, once it was asked for room that was not there.
#[derive(Default)]
pub(super) struct Turn {
    waiting: Option<Waiting>,
    /// It has come and is not used yet.
    room: Option<Room>,
}

impl Turn {
    /// Room for one message. Without any this waits in line from now on.
    pub(super) fn room(&mut self, way: &Sender<ClientMessage>) -> Option<Room> {
        if self.waiting.is_some() || self.room.is_some() {
            return self.room.take();
        }
        match way.clone().try_reserve_owned() {
            Ok(room) => Some(room),
            Err(TrySendError::Full(way)) => {
                self.waiting = Some(Box::pin(way.reserve_owned()));
                None
            }
            Err(TrySendError::Closed(_)) => None,
        }
    }

    /// Returns when there is room, or never will be; nothing is lost when the waiting is broken
    /// off. It never returns where nothing was asked for.
    pub(super) async fn come(&mut self) {
        match &mut self.waiting {
            Some(waiting) => {
                self.room = waiting.await.ok();
                self.waiting = None;
            }
            None => std::future::pending().await,
        }
    }

    /// Leaves it to others: there is nothing more to say.
    pub(super) fn pass(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use tokio::sync::mpsc;

    use super::*;
    use crate::pairing::SessionId;

    fn message(number: u8) -> ClientMessage {
        let session = SessionId([number; 16]);
        ClientMessage::Leave {
            session,
            busy: false,
        }
    }

    fn has_come(turn: &mut Turn) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let come = std::pin::pin!(turn.come());
        come.poll(&mut context) == Poll::Ready(())
    }

    #[test]
    fn who_came_first_goes_first() {
        let (way, mut server) = mpsc::channel(1);
        let mut turns = [0; 3].map(|_| Turn::default());
        let room = turns[0].room(&way).expect("nobody is there");
        for turn in &mut turns {
            assert!(turn.room(&way).is_none() && !has_come(turn));
        }
        room.send(message(9));
        for at in 0..turns.len() {
            assert!(server.try_recv().is_ok());
            // Those who look more often do not get it for that.
            for other in turns.iter_mut().skip(at + 1) {
                assert!(other.room(&way).is_none() && !has_come(other));
            }
            assert!(Turn::default().room(&way).is_none());
            assert!(has_come(&mut turns[at]));
            let room = turns[at].room(&way).expect("its turn");
            room.send(message(at as u8));
        }
    }

    #[test]
    fn who_has_nothing_to_say_makes_room_for_the_next() {
        let (way, mut server) = mpsc::channel(1);
        let [mut one, mut two] = [Turn::default(), Turn::default()];
        way.try_send(message(1)).expect("room");
        for turn in [&mut one, &mut two] {
            assert!(turn.room(&way).is_none() && !has_come(turn));
        }
        assert!(server.try_recv().is_ok());
        assert!(has_come(&mut one) && !has_come(&mut two));
        one.pass();
        assert!(has_come(&mut two) && two.room(&way).is_some());
        drop(server);
        assert!(one.room(&way).is_none(), "it is closed");
        assert!(!has_come(&mut one), "nothing to wait for");
    }
}
