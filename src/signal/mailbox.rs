//! What the room leaves for a connection: a short queue that takes no memory while it is empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::room::{Event, Gone, Mailbox};

/// Events that may wait for a connection that does not read. A reader that is further behind is
/// given up.
const CAPACITY: usize = 512;

struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that the room writes to.
pub(super) struct Slot(Arc<Shared>);

/// The end that the connection reads. Dropped, it refuses what comes.
pub(super) struct Inbox(Arc<Shared>);

pub(super) fn mailbox() -> (Slot, Inbox) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        arrived: Notify::new(),
    });
    (Slot(Arc::clone(&shared)), Inbox(shared))
}

impl Mailbox for Slot {
    fn deliver(&self, event: Event) -> Result<(), Gone> {
        let mut queue = self.0.queue();
        if queue.closed {
            return Err(Gone);
        }
        if queue.events.len() >= CAPACITY {
            queue.closed = true;
            self.0.arrived.notify_one();
            return Err(Gone);
        }
        queue.events.push_back(event);
        self.0.arrived.notify_one();
        Ok(())
    }
}

impl Inbox {
    /// The next event; `None` when the reader fell so far behind that some are lost.
    /// Cancel-safe.
    pub(super) async fn next(&self) -> Option<Event> {
        loop {
            {
                let mut queue = self.0.queue();
                if let Some(event) = queue.events.pop_front() {
                    if queue.events.is_empty() {
                        queue.events = VecDeque::new();
                    }
                    return Some(event);
                }
                if queue.closed {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        queue.events = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_is_far_behind_is_given_up_and_one_that_has_gone_is_known() {
        let (slot, inbox) = mailbox();
        for _ in 0..CAPACITY {
            assert_eq!(slot.deliver(Event::TimedOut), Ok(()));
        }
        assert_eq!(slot.deliver(Event::GoingAway), Err(Gone));
        for _ in 0..CAPACITY {
            assert_eq!(inbox.next().await, Some(Event::TimedOut));
        }
        assert_eq!(inbox.next().await, None);

        let (slot, inbox) = mailbox();
        drop(inbox);
        assert_eq!(slot.deliver(Event::TimedOut), Err(Gone));
    }
}
