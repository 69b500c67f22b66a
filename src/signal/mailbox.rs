//! What the room leaves for a connection: a short queue that takes no memory while it is empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::room::{Event, Gone, Mailbox};

/// Events that may wait for a connection that does not read. A reader that is further behind is
/// given up.
const CAPACITY: usize = 512;

#[derive(Default)]
struct Shared(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    closed: bool,
    /// Waits for an event.
    reader: Option<Waker>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that the room writes to.
pub(super) struct Slot(Arc<Shared>);

/// The end that the connection reads. Dropped, it refuses what comes.
pub(super) struct Inbox(Arc<Shared>);

pub(super) fn mailbox() -> (Slot, Inbox) {
    let shared = Arc::<Shared>::default();
    (Slot(Arc::clone(&shared)), Inbox(shared))
}

impl Mailbox for Slot {
    fn deliver(&self, event: Event) -> Result<(), Gone> {
        let mut queue = self.0.queue();
        if queue.closed {
            return Err(Gone);
        }
        let taken = if queue.events.len() < CAPACITY {
            queue.events.push_back(event);
            Ok(())
        } else {
            queue.closed = true;
            Err(Gone)
        };
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
        taken
    }
}

impl Inbox {
    /// The next event; `None` when the reader fell so far behind that some are lost.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = self.0.queue();
        if let Some(event) = queue.events.pop_front() {
            if queue.events.is_empty() {
                queue.events = VecDeque::new();
            }
            return Poll::Ready(Some(event));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
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
    use std::future::poll_fn;

    use super::*;

    async fn next(inbox: &Inbox) -> Option<Event> {
        poll_fn(|cx| inbox.poll_next(cx)).await
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (slot, inbox) = mailbox();
        let reading = tokio::spawn(async move { next(&inbox).await });
        tokio::task::yield_now().await;
        assert_eq!(slot.deliver(Event::TimedOut), Ok(()));
        assert_eq!(reading.await.expect("no panic"), Some(Event::TimedOut));
    }

    #[tokio::test]
    async fn a_reader_that_is_far_behind_is_given_up_and_one_that_has_gone_is_known() {
        let (slot, inbox) = mailbox();
        for _ in 0..CAPACITY {
            assert_eq!(slot.deliver(Event::TimedOut), Ok(()));
        }
        assert_eq!(slot.deliver(Event::GoingAway), Err(Gone));
        for _ in 0..CAPACITY {
            assert_eq!(next(&inbox).await, Some(Event::TimedOut));
        }
        assert_eq!(next(&inbox).await, None);

        let (slot, inbox) = mailbox();
        drop(inbox);
        assert_eq!(slot.deliver(Event::TimedOut), Err(Gone));
    }
}
