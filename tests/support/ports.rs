//! Blocks of ports that no two running tests share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const BLOCK: u16 = 500;
const FIRST_BLOCK: u16 = 10_000;
/// Ends below Linux' range of ephemeral ports (32768 and up), where clients' sockets live.
const BLOCKS: u32 = 45;

/// A claim on 500 ports: other tests, also of other processes, see the bound first one.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _claim: UdpSocket,
}

impl Ports {
    /// Claims a block whose fixed ports are free on both loopback addresses.
    pub fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let started = Instant::now();
        loop {
            let index = NEXT
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_add(std::process::id().wrapping_mul(7));
            let base = FIRST_BLOCK + BLOCK * u16::try_from(index % BLOCKS).expect("below 45");
            if let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, base)) {
                let ports = Self {
                    base,
                    _claim: claim,
                };
                if ports.are_free() {
                    return ports;
                }
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "no block of free ports on loopback"
            );
            sleep(Duration::from_millis(5));
        }
    }

    fn are_free(&self) -> bool {
        let hosts = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        hosts.iter().all(|&ip| {
            [
                self.plain(),
                self.tls(),
                self.ops(),
                self.signaling(),
                self.peer(),
            ]
            .iter()
            .all(|&port| {
                UdpSocket::bind((ip, port)).is_ok() && TcpListener::bind((ip, port)).is_ok()
            })
        })
    }

    /// The UDP and TCP listeners' port.
    pub fn plain(&self) -> u16 {
        self.base + 1
    }

    /// The TLS listener's port.
    pub fn tls(&self) -> u16 {
        self.base + 2
    }

    /// The operations listener's port.
    pub fn ops(&self) -> u16 {
        self.base + 3
    }

    /// The pairing endpoint's port.
    pub fn signaling(&self) -> u16 {
        self.base + 4
    }

    /// A port for an echo peer; the one above it is free too.
    pub fn peer(&self) -> u16 {
        self.base + 10
    }

    /// First and last relay port.
    pub fn relay(&self) -> (u16, u16) {
        (self.base + 50, self.base + BLOCK - 1)
    }
}
