//! Over real sockets of this machine.

use std::net::UdpSocket;

use super::*;

#[test]
fn batches_arrive_with_source_and_destination() {
    for (any, host) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1")] {
        let host: IpAddr = host.parse().expect("an address");
        let receiving = UdpSocket::bind(any).expect("a socket");
        enable_packet_info(&receiving, host.is_ipv6()).expect("packet info");
        let sending = UdpSocket::bind(any).expect("a socket");
        let port = |socket: &UdpSocket| socket.local_addr().expect("bound").port();
        let to = SocketAddr::new(host, port(&receiving));

        let mut sender = Sender::new(4, 16);
        for byte in 0..4 {
            sender.slot()[..3].fill(byte);
            sender.commit(3, Some(&to), Some(host));
        }
        assert!(sender.is_full());
        let done = sender.flush(&sending);
        assert_eq!((done.sent, done.refused), (4, 0), "{done:?}");

        let mut receiver = Receiver::new(8, 2);
        let count = receiver.receive(&receiving).expect("datagrams");
        assert_eq!(count, 4);
        for index in 0..count {
            let datagram = receiver.datagram(index);
            assert_eq!(datagram.bytes, [index as u8; 2]);
            assert!(datagram.truncated, "slots of two bytes");
            let source = SocketAddr::new(host, port(&sending));
            assert_eq!(datagram.source, Some(source));
            assert_eq!(datagram.local, Some(host));
        }
        assert_eq!(receiver.receive(&receiving).expect("nothing"), 0);
    }
}

#[test]
fn datagrams_that_come_as_one_are_told_apart() {
    let receiving = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    enable_packet_info(&receiving, false).expect("packet info");
    enable_coalescing(&receiving).expect("Linux 5.0");
    let sending = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = receiving.local_addr().expect("bound").port();
    sending.connect(("127.0.0.1", port)).expect("connected");
    // Two of four bytes and one of three, put together by who sends them.
    set_option(&sending, libc::SOL_UDP, libc::UDP_SEGMENT, 4).expect("Linux 4.18");
    assert_eq!(sending.send(b"onceagaino!").expect("sent"), 11);
    set_option(&sending, libc::SOL_UDP, libc::UDP_SEGMENT, 0).expect("off");
    sending.send(b"alone").expect("sent");
    sending.send(b"").expect("sent");

    let mut receiver = Receiver::new(8, 64);
    assert_eq!(receiver.receive(&receiving).expect("datagrams"), 3);
    let parts = |index| receiver.datagram(index).segments().collect::<Vec<_>>();
    assert_eq!(parts(0), [&b"once"[..], b"agai", b"no!"]);
    assert_eq!(parts(1), [b"alone"]);
    assert_eq!(parts(2), [b""]);
    for index in 0..3 {
        let local = receiver.datagram(index).local;
        assert_eq!(local, Some([127, 0, 0, 1].into()));
    }
}

#[test]
fn a_refused_datagram_does_not_hold_up_the_next() {
    let receiving = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = receiving.local_addr().expect("bound");
    let sending = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // Datagrams to the limited broadcast address take an option that is not set.
    let refused = SocketAddr::from(([255, 255, 255, 255], 9));
    let mut sender = Sender::new(3, 1);
    for to in [to, refused, to] {
        sender.commit(1, Some(&to), None);
    }
    let done = sender.flush(&sending);
    assert_eq!((done.sent, done.refused), (2, 1));
    assert!(done.error.is_some());
    assert_eq!(sender.waiting(), 0);
}

#[test]
fn a_full_receive_buffer_is_told() {
    let receiving = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = receiving.local_addr().expect("bound");
    assert_eq!(receive_drops(&receiving).expect("told"), 0);
    let sending = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..2000 {
        sending.send_to(&[0; 1000], to).expect("sent");
    }
    assert!(receive_drops(&receiving).expect("told") > 0);
}
