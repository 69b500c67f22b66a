//! What the room leaves for a connection: a queue that takes no memory while it is empty, and
//! little when its reader is slow.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::proto::Mono;

use super::clock;
use super::room::{Event, Gone, Mailbox};

/// Events that may wait for a connection that does not read. A reader that is further behind is
/// given up.
const CAPACITY: usize = 512;

/// Bytes that may wait for all connections together.
const ALL: usize = 64 << 20;

/// Of those what only the first event for a connection may take: who reads gets its events also
/// when others do not.
const FIRST: usize = ALL / 2;

/// Which part of what is left of the rest may wait for one connection: 256 KiB at most, and the
/// less the more others do not read.
const PART: usize = 128;

/// After how many seconds a reader is given up for whom an event still waits.
pub(super) const BEHIND: u64 = 20;

/// How many bytes wait for all connections.
#[derive(Default)]
pub(super) struct Backlog(AtomicUsize);

struct Shared {
    backlog: Arc<Backlog>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Boxed, because mostly nothing waits.
    behind: Option<Box<Behind>>,
    closed: bool,
    /// Waits for an event.
    reader: Option<Waker>,
}

/// What waits for the reader.
#[derive(Default)]
struct Behind {
    /// And when they came.
    events: VecDeque<(Mono, Event)>,
    bytes: usize,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Takes an event, if there is room for it.
    fn put(&mut self, event: Event, backlog: &Backlog) -> Result<(), Gone> {
        let bytes = size(&event);
        // The room's lock is held, so that nobody else adds to it meanwhile.
        let held = backlog.0.load(Relaxed);
        let (events, own) = match &self.behind {
            Some(behind) => (behind.events.len(), behind.bytes),
            None => (0, 0),
        };
        let own = own + bytes;
        let fits = match events {
            0 => held + bytes <= ALL,
            1..CAPACITY => own <= (ALL - FIRST).saturating_sub(held) / PART,
            _ => false,
        };
        if !fits {
            self.closed = true;
            return Err(Gone);
        }
        backlog.0.fetch_add(bytes, Relaxed);
        let behind = self.behind.get_or_insert_default();
        behind.bytes = own;
        behind.events.push_back((clock::now().mono, event));
        Ok(())
    }

    /// Takes the first event out, and when it came.
    fn take(&mut self, backlog: &Backlog) -> Option<(Mono, Event)> {
        let behind = self.behind.as_mut()?;
        let first = behind.events.pop_front();
        if let Some((_, event)) = &first {
            let bytes = size(event);
            behind.bytes -= bytes;
            backlog.0.fetch_sub(bytes, Relaxed);
        }
        if behind.events.is_empty() {
            self.behind = None;
        }
        first
    }
}

/// What an event takes, in bytes.
fn size(event: &Event) -> usize {
    let more = match event {
        Event::Signal { blob, .. } => blob.len(),
        Event::Paired(pairing) => size_of_val(pairing.peer_endpoints.as_slice()),
        _ => 0,
    };
    size_of::<(Mono, Event)>() + more
}

/// The end that the room writes to.
pub(super) struct Slot(Arc<Shared>);

/// The end that the connection reads. Dropped, it refuses what comes.
pub(super) struct Inbox(Arc<Shared>);

pub(super) fn mailbox(backlog: &Arc<Backlog>) -> (Slot, Inbox) {
    let shared = Arc::new(Shared {
        backlog: Arc::clone(backlog),
        queue: Mutex::default(),
    });
    (Slot(Arc::clone(&shared)), Inbox(shared))
}

impl Mailbox for Slot {
    fn deliver(&self, event: Event) -> Result<(), Gone> {
        let mut queue = self.0.queue();
        if queue.closed {
            return Err(Gone);
        }
        let taken = queue.put(event, &self.0.backlog);
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
        if let Some((came, event)) = queue.take(&self.0.backlog) {
            if clock::now().mono <= came.plus_secs(BEHIND) {
                return Poll::Ready(Some(event));
            }
            queue.closed = true;
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
        if let Some(behind) = queue.behind.take() {
            self.0.backlog.0.fetch_sub(behind.bytes, Relaxed);
        }
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
        let (slot, inbox) = mailbox(&Arc::default());
        let reading = tokio::spawn(async move { next(&inbox).await });
        tokio::task::yield_now().await;
        assert_eq!(slot.deliver(Event::TimedOut), Ok(()));
        assert_eq!(reading.await.expect("no panic"), Some(Event::TimedOut));
    }

    #[tokio::test]
    async fn a_reader_that_is_far_behind_is_given_up_and_one_that_has_gone_is_known() {
        let (slot, inbox) = mailbox(&Arc::default());
        for _ in 0..CAPACITY {
            assert_eq!(slot.deliver(Event::TimedOut), Ok(()));
        }
        assert_eq!(slot.deliver(Event::GoingAway), Err(Gone));
        for _ in 0..CAPACITY {
            assert_eq!(next(&inbox).await, Some(Event::TimedOut));
        }
        assert_eq!(next(&inbox).await, None);

        let (slot, inbox) = mailbox(&Arc::default());
        drop(inbox);
        assert_eq!(slot.deliver(Event::TimedOut), Err(Gone));
    }

    fn signal(len: usize) -> Event {
        Event::Signal {
            session: crate::pairing::SessionId([1; 16]),
            blob: "x".repeat(len),
        }
    }

    #[tokio::test]
    async fn however_many_do_not_read_they_hold_so_many_bytes() {
        let backlog = Arc::<Backlog>::default();
        let fill = || {
            let (slot, inbox) = mailbox(&backlog);
            let taken = (0..CAPACITY).take_while(|_| slot.deliver(signal(4096)).is_ok());
            (taken.count(), slot, inbox)
        };
        let alone = fill();
        assert!((56..64).contains(&alone.0), "{}", alone.0);
        let many: Vec<_> = (0..2000).map(|_| fill()).collect();
        let held = backlog.0.load(Relaxed);
        assert!((FIRST / 2..=ALL).contains(&held), "{held}");
        let (slot, inbox) = mailbox(&backlog);
        assert_eq!(
            slot.deliver(signal(4096)),
            Ok(()),
            "others still get theirs"
        );
        assert_eq!(next(&inbox).await, Some(signal(4096)));
        drop((alone, many, inbox));
        assert_eq!(backlog.0.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_behind_for_long_is_given_up() {
        let (slot, inbox) = mailbox(&Arc::default());
        let seconds = std::time::Duration::from_secs;
        assert_eq!(slot.deliver(signal(1)), Ok(()));
        tokio::time::advance(seconds(BEHIND - 1)).await;
        assert_eq!(slot.deliver(signal(2)), Ok(()));
        assert_eq!(next(&inbox).await, Some(signal(1)));
        tokio::time::advance(seconds(BEHIND + 1)).await;
        assert_eq!(next(&inbox).await, None);
        assert_eq!(slot.deliver(signal(3)), Err(Gone));
    }
}
