//! How many connections there may be, in all and from one source.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use hashbrown::HashMap;
use tokio::task::AbortHandle;

use super::Limits;
use super::room::{Full, Shares};

/// Counts the open connections. When there are as many as may be, one from elsewhere takes the
/// place of the newest of those who have most.
#[derive(Clone)]
pub(super) struct Doors(Arc<Mutex<Open>>);

struct Open {
    shares: Shares<u64>,
    /// Those who have not asked to join yet.
    strangers: Shares<u64>,
    connections: HashMap<u64, Connection, RandomState>,
    last: u64,
}

struct Connection {
    ip: IpAddr,
    /// What serves it.
    task: Option<AbortHandle>,
}

/// One open connection. Gives its place back on drop.
pub(super) struct Place {
    doors: Doors,
    name: u64,
}

impl Doors {
    pub(super) fn new(limits: &Limits, seed: u64) -> Self {
        let total = limits.connections;
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(16), 2);
        Self(Arc::new(Mutex::new(Open {
            shares: Shares::new(total, limits.connections_per_source, hasher.clone()),
            strangers: Shares::new(total, limits.strangers_per_source, hasher.clone()),
            connections: HashMap::with_hasher(hasher),
            last: 0,
        })))
    }

    /// A place for a connection from `ip`, if there is one.
    pub(super) fn enter(&self, ip: IpAddr) -> Option<Place> {
        let mut open = self.lock();
        // They are some of all, so that there is room when there is for one of all.
        if let Err(Full::Source) = open.strangers.admit(ip) {
            return None;
        }
        let displaced = open.shares.admit(ip).ok()?;
        let displaced = displaced.and_then(|name| open.release(name));
        open.last += 1;
        let name = open.last;
        open.shares.enter(ip, name);
        open.strangers.enter(ip, name);
        open.connections.insert(name, Connection { ip, task: None });
        drop(open);
        if let Some(task) = displaced.and_then(|displaced| displaced.task) {
            task.abort();
        }
        let doors = self.clone();
        Some(Place { doors, name })
    }

    /// Open connections.
    pub(super) fn open(&self) -> usize {
        self.lock().shares.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn release(&mut self, name: u64) -> Option<Connection> {
        let released = self.connections.remove(&name)?;
        self.shares.leave(released.ip, name);
        self.strangers.leave(released.ip, name);
        let (capacity, len) = (self.connections.capacity(), self.connections.len());
        // Gives memory back after a flood.
        if capacity > 1024 && len < capacity / 8 {
            self.connections.shrink_to(len * 2);
        }
        Some(released)
    }
}

impl Place {
    /// It asks to join.
    pub(super) fn settle(&self) {
        let mut open = self.doors.lock();
        if let Some(ip) = open.connections.get(&self.name).map(|own| own.ip) {
            open.strangers.leave(ip, self.name);
        }
    }

    /// Which task serves the connection from now on. It is aborted when the connection has to go.
    pub(super) fn serve(&self, task: AbortHandle) {
        let mut open = self.doors.lock();
        match open.connections.get_mut(&self.name) {
            Some(connection) => connection.task = Some(task),
            None => {
                drop(open);
                task.abort();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let released = self.doors.lock().release(self.name);
        // Not under the lock: the task may be the last owner of another place.
        drop(released);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn doors(connections: usize, connections_per_source: usize) -> Doors {
        let limits = Limits {
            connections,
            connections_per_source,
            ..Limits::default()
        };
        Doors::new(&limits, 1)
    }

    #[test]
    fn few_may_be_open_that_ask_for_nothing() {
        let limits = Limits {
            strangers_per_source: 2,
            ..Limits::default()
        };
        let doors = Doors::new(&limits, 1);
        let own = ip("192.0.2.1");
        let places = [(); 2].map(|()| doors.enter(own).expect("a place"));
        assert!(doors.enter(own).is_none());
        assert!(doors.enter(ip("192.0.2.2")).is_some());
        places[0].settle();
        places[0].settle();
        let _third = doors.enter(own).expect("a place");
        assert!(doors.enter(own).is_none());
        drop(places);
        assert_eq!(doors.open(), 1);
        assert!(doors.enter(own).is_some());
    }

    #[test]
    fn places_come_back() {
        let doors = doors(3, 2);
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(ip);
        let first = doors.enter(a).expect("a place");
        let _second = doors.enter(a).expect("a place");
        assert!(doors.enter(a).is_none(), "two of one source");
        let _third = doors.enter(b).expect("a place");
        assert!(doors.enter(b).is_none(), "three in all");
        drop(first);
        assert_eq!(doors.open(), 2);
        assert!(doors.enter(a).is_some());
    }

    #[tokio::test]
    async fn the_newest_of_those_who_have_most_goes_for_one_from_elsewhere() {
        let doors = doors(3, 3);
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let place = Arc::new(doors.enter(ip("192.0.2.1")).expect("a place"));
            let held = Arc::clone(&place);
            let task = tokio::spawn(async move {
                let _held = held;
                pending::<()>().await;
            });
            place.serve(task.abort_handle());
            tasks.push(task);
        }
        let other = doors.enter(ip("2001:db8::1")).expect("a place");
        let displaced = tasks.pop().expect("three").await;
        assert!(displaced.expect_err("it is aborted").is_cancelled());
        assert_eq!(doors.open(), 3);
        assert!(tasks.iter().all(|task| !task.is_finished()));
        drop(other);
        assert_eq!(
            doors.open(),
            2,
            "one that was displaced is not counted twice"
        );
        tasks.iter().for_each(|task| task.abort());
        for task in tasks {
            assert!(task.await.is_err());
        }
        assert_eq!(doors.open(), 0);
    }
}
