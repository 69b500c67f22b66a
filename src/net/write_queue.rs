//! What waits to be written to a connection, bounded in bytes and in age.
//!
//! Relayed data is worth nothing when it is late, and its sender does not wait for a slow
//! client: the oldest is dropped first. Answers are never dropped.

use std::collections::VecDeque;

use crate::proto::Mono;

/// The most bytes whose memory an idle connection keeps.
pub(super) const KEEP: usize = 4096;

/// The most messages whose records it keeps.
pub(super) const KEEP_RECORDS: usize = 128;

/// No room for an answer even without any relayed data: the connection is beyond help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Clone, Copy, Debug)]
struct Record {
    len: usize,
    answer: bool,
    at: Mono,
}

/// Whole messages in the order in which they are to be written.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    bytes: Vec<u8>,
    /// What is before this is written.
    head: usize,
    records: VecDeque<Record>,
    /// How much of the first message is written: it cannot be dropped any more.
    begun: usize,
}

impl WriteQueue {
    /// The bytes that wait.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// What waits of the first message.
    pub(super) fn first(&self) -> &[u8] {
        let left = self
            .records
            .front()
            .map_or(0, |first| first.len - self.begun);
        &self.waiting()[..left]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.bytes.len()
    }

    /// Queues one message made of `parts`, making room within `limit` bytes by dropping the
    /// oldest relayed data. Returns how many messages were dropped, the new one among them when
    /// it is relayed data that does not fit.
    pub(super) fn push(
        &mut self,
        now: Mono,
        parts: [&[u8]; 3],
        answer: bool,
        limit: usize,
    ) -> Result<u64, Full> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut dropped = 0;
        while self.waiting().len() + len > limit {
            let Some(index) = self.oldest_data() else {
                return if answer { Err(Full) } else { Ok(dropped + 1) };
            };
            self.remove(index);
            dropped += 1;
        }
        self.compact();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.records.push_back(Record {
            len,
            answer,
            at: now,
        });
        Ok(dropped)
    }

    /// Drops relayed data that was queued before `oldest`; returns how many messages.
    pub(super) fn drop_older(&mut self, oldest: Mono) -> u64 {
        let mut dropped = 0;
        while let Some(index) = self.oldest_data()
            && self.records[index].at < oldest
        {
            self.remove(index);
            dropped += 1;
        }
        dropped
    }

    /// The first `written` bytes are on their way.
    pub(super) fn consume(&mut self, written: usize) {
        self.head += written;
        self.begun += written;
        while let Some(first) = self.records.front()
            && self.begun >= first.len
        {
            self.begun -= first.len;
            self.records.pop_front();
        }
        if self.is_empty() {
            self.bytes.clear();
            self.head = 0;
        }
    }

    /// The oldest relayed data of which nothing is written.
    fn oldest_data(&self) -> Option<usize> {
        let start = usize::from(self.begun > 0);
        (start..self.records.len()).find(|&index| !self.records[index].answer)
    }

    /// Takes a message out. What is before it moves up: seldom more than one begun message.
    fn remove(&mut self, index: usize) {
        let before: usize = self.records.range(..index).map(|record| record.len).sum();
        let before = before - self.begun;
        if let Some(record) = self.records.remove(index) {
            self.bytes
                .copy_within(self.head..self.head + before, self.head + record.len);
            self.head += record.len;
        }
    }

    /// Gives the space in front back before the buffer would have to grow.
    fn compact(&mut self) {
        if self.head > 0 && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Whether more waits than [`shrink`](Self::shrink) keeps memory for.
    pub(super) fn is_long(&self) -> bool {
        self.bytes.len() > KEEP || self.records.len() > KEEP_RECORDS
    }

    /// Gives memory back that a burst took.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to(KEEP);
        self.records.shrink_to(KEEP_RECORDS);
    }

    /// Bytes and messages that there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> (usize, usize) {
        (self.bytes.capacity(), self.records.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono(1_000_000);

    fn push(queue: &mut WriteQueue, text: &str, answer: bool, limit: usize) -> Result<u64, Full> {
        queue.push(NOW, [text.as_bytes(), b"", b""], answer, limit)
    }

    #[test]
    fn the_oldest_data_makes_room_and_answers_stay() {
        let mut queue = WriteQueue::default();
        assert_eq!(push(&mut queue, "d1", false, 8), Ok(0));
        assert_eq!(push(&mut queue, "A1", true, 8), Ok(0));
        assert_eq!(push(&mut queue, "d2", false, 8), Ok(0));
        assert_eq!(push(&mut queue, "d3", false, 8), Ok(0));
        assert_eq!(push(&mut queue, "d4", false, 8), Ok(1));
        assert_eq!(queue.waiting(), b"A1d2d3d4");
        assert_eq!(push(&mut queue, "A2", true, 8), Ok(1));
        assert_eq!(queue.waiting(), b"A1d3d4A2");
    }

    #[test]
    fn a_begun_message_is_finished_whatever_is_dropped_behind_it() {
        let mut queue = WriteQueue::default();
        assert_eq!(push(&mut queue, "first", false, 10), Ok(0));
        assert_eq!(push(&mut queue, "second", false, 11), Ok(0));
        queue.consume(2);
        assert_eq!(push(&mut queue, "third", false, 9), Ok(1));
        assert_eq!(queue.waiting(), b"rstthird");
        queue.consume(3);
        assert_eq!(queue.waiting(), b"third");
        queue.consume(5);
        assert!(queue.is_empty());
        assert_eq!(push(&mut queue, "x", false, 9), Ok(0));
        assert_eq!(queue.waiting(), b"x");
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error_and_data_is_a_drop() {
        let mut queue = WriteQueue::default();
        assert_eq!(push(&mut queue, "ANSWER", true, 8), Ok(0));
        assert_eq!(push(&mut queue, "data", false, 8), Ok(1));
        assert_eq!(push(&mut queue, "ANSWER", true, 8), Err(Full));
        assert_eq!(queue.waiting(), b"ANSWER");
    }

    #[test]
    fn only_data_goes_stale() {
        let mut queue = WriteQueue::default();
        assert_eq!(push(&mut queue, "A", true, 99), Ok(0));
        assert_eq!(push(&mut queue, "old", false, 99), Ok(0));
        let parts = [&b"n"[..], b"e", b"w"];
        assert_eq!(queue.push(NOW.plus_secs(2), parts, false, 99), Ok(0));
        assert_eq!(queue.drop_older(NOW.plus_secs(1)), 1);
        assert_eq!(queue.waiting(), b"Anew");
    }

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let mut queue = WriteQueue::default();
        for number in 0..1000 {
            assert!(!queue.is_long() || number > 40);
            assert_eq!(push(&mut queue, &"x".repeat(100), false, 1 << 20), Ok(0));
        }
        assert!(queue.is_long());
        queue.consume(100_000);
        assert!(!queue.is_long());
        queue.shrink();
        let (bytes, records) = queue.capacity();
        assert!(
            bytes <= KEEP && records <= KEEP_RECORDS,
            "{bytes} {records}"
        );
        // Many messages that are not many bytes.
        for _ in 0..KEEP_RECORDS + 1 {
            assert_eq!(push(&mut queue, "x", false, 1 << 20), Ok(0));
        }
        assert!(queue.is_long());
    }

    #[test]
    fn the_first_message_is_told_from_those_behind_it() {
        let mut queue = WriteQueue::default();
        for text in ["one", "second", "3"] {
            assert_eq!(push(&mut queue, text, false, 100), Ok(0));
        }
        assert_eq!(queue.first(), b"one");
        queue.consume(2);
        assert_eq!(queue.first(), b"e");
        queue.consume(1);
        assert_eq!(queue.first(), b"second");
        queue.consume(6);
        assert_eq!(queue.first(), b"3");
        queue.consume(1);
        assert!(queue.first().is_empty());
    }
}
