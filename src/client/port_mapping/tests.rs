//! Routers made of a socket, which keep the leases that they granted.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);
/// UPnP is asked here, where nobody is.
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
const OUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("a port")
}

/// Inner port, outer port, seconds.
type Leases = Arc<Mutex<Vec<(u16, u16, u32)>>>;

fn two(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A router at `address` that speaks NAT-PMP (RFC 6886), and PCP (RFC 6887) when told to.
async fn router(address: Ipv4Addr, speaks_pcp: bool) -> Leases {
    let socket = UdpSocket::bind((address, 5351)).await.expect("loopback");
    let leases = Leases::default();
    let kept = Arc::clone(&leases);
    tokio::spawn(async move {
        let mut buffer = [0; 1100];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.expect("open");
            let answer = answer(&buffer[..len], speaks_pcp, &kept);
            socket.send_to(&answer, from).await.expect("sent");
        }
    });
    leases
}

fn answer(request: &[u8], speaks_pcp: bool, leases: &Leases) -> Vec<u8> {
    let keep = |inner: u16, seconds: u32| {
        let mut leases = leases.lock().expect("no panic");
        leases.retain(|(known, ..)| *known != inner);
        leases.push((inner, inner + 1000, seconds));
        inner + 1000
    };
    match (request[0], request[1]) {
        // PCP's MAP, section 11.1.
        (2, 1) if speaks_pcp => {
            let mut answer = request.to_vec();
            answer[1] |= 0x80;
            answer[3] = 0;
            answer[8..24].fill(0);
            let outer = keep(two(request, 40), four(request, 4));
            answer[42..44].copy_from_slice(&outer.to_be_bytes());
            answer[44..60].copy_from_slice(&OUTER.to_ipv6_mapped().octets());
            answer
        }
        // Unsupported version, as a NAT-PMP router says it (RFC 6886 section 9).
        (2, opcode) => vec![0, opcode | 0x80, 0, 1, 0, 0, 0, 1],
        (0, 0) => [&[0, 128, 0, 0, 0, 0, 0, 1][..], &OUTER.octets()].concat(),
        (0, opcode) => {
            let outer = keep(two(request, 4), four(request, 8));
            let head = [0, opcode | 0x80, 0, 0, 0, 0, 0, 1];
            let seconds = four(request, 8).to_be_bytes();
            [&head[..], &request[4..6], &outer.to_be_bytes(), &seconds].concat()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pcp_and_nat_pmp_grant_a_port_and_get_it_back() {
    for (last, speaks_pcp, spoken) in [(1, false, Spoken::NatPmp), (2, true, Spoken::Pcp)] {
        let address = Ipv4Addr::new(127, 0, 77, last);
        let leases = router(address, speaks_pcp).await;
        let routers = Routers {
            gateway: Some(address),
            upnp: NOBODY,
        };
        for (inner, given_back) in [(5000, true), (5001, false)] {
            let asked = PortMapping::request(Protocol::Udp, port(inner), &routers, LIMIT);
            let mapping = asked.await.expect("granted");
            assert_eq!(mapping.spoken(), spoken);
            assert_eq!(mapping.external(), (OUTER, inner + 1000).into());
            let granted = leases.lock().expect("no panic").last().copied();
            assert_eq!(granted, Some((inner, inner + 1000, LEASE)));
            if given_back {
                mapping.release().await;
            } else {
                drop(mapping);
                sleep(Duration::from_millis(300)).await;
            }
            let granted = leases.lock().expect("no panic").last().copied();
            assert_eq!(
                granted.map(|(inner, _, seconds)| (inner, seconds)),
                Some((inner, 0))
            );
        }
    }
}

#[tokio::test]
async fn without_a_router_it_gives_up_in_time() {
    let silent = UdpSocket::bind("127.0.77.3:5351").await.expect("loopback");
    for gateway in [None, Some(Ipv4Addr::new(127, 0, 77, 3))] {
        let routers = Routers {
            gateway,
            upnp: NOBODY,
        };
        let limit = Duration::from_millis(400);
        let began = tokio::time::Instant::now();
        let asked = PortMapping::request(Protocol::Tcp, port(5000), &routers, limit);
        assert!(asked.await.is_none());
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    drop(silent);
}

const DEVICE: &str = r#"<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>/control</controlURL><SCPDURL>/schema.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"#;

const SCHEMA: &str = r#"<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0">
<actionList><action><name>AddPortMapping</name><argumentList></argumentList></action>
<action><name>DeletePortMapping</name><argumentList></argumentList></action></actionList>
</scpd>"#;

/// Everything that a UPnP router was asked to do, in order.
async fn upnp_router() -> (SocketAddrV4, Arc<Mutex<Vec<String>>>) {
    let search = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let pages = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let SocketAddr::V4(address) = search.local_addr().expect("bound") else {
        panic!("IPv4");
    };
    let at = pages.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (_, from) = search.recv_from(&mut buffer).await.expect("open");
            let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: http://{at}/device.xml\r\n\r\n");
            search.send_to(answer.as_bytes(), from).await.expect("sent");
        }
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = pages.accept().await.expect("open");
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await.expect("a request");
                request.push(byte[0].to_ascii_lowercase());
            }
            let head = String::from_utf8(request.clone()).expect("ASCII");
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.split("\r\n").next());
            let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
            stream.read_exact(&mut body).await.expect("a body");
            request.extend(body);
            let request = String::from_utf8(request).expect("UTF-8");
            let action = |name: &str| request.contains(&format!(":{name} xmlns"));
            let respond = |name: &str, content: &str| {
                log.lock().expect("no panic").push(name.to_owned());
                format!(
                    "<?xml version=\"1.0\"?><s:Envelope \
                     xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
                     <u:{name}Response xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">\
                     {content}</u:{name}Response></s:Body></s:Envelope>"
                )
            };
            let body = if request.starts_with("get /device.xml") {
                DEVICE.to_owned()
            } else if request.starts_with("get /schema.xml") {
                SCHEMA.to_owned()
            } else if action("GetExternalIPAddress") {
                let address = format!("<NewExternalIPAddress>{OUTER}</NewExternalIPAddress>");
                respond("GetExternalIPAddress", &address)
            } else if action("AddPortMapping") {
                respond("AddPortMapping", "")
            } else {
                assert!(action("DeletePortMapping"), "{request}");
                respond("DeletePortMapping", "")
            };
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
            let answer = format!("{head}{}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    (address, asked)
}

#[tokio::test]
async fn upnp_grants_a_port_and_gets_it_back() {
    let (upnp, asked) = upnp_router().await;
    let routers = Routers {
        gateway: None,
        upnp,
    };
    let asking = PortMapping::request(Protocol::Tcp, port(5000), &routers, LIMIT);
    let mapping = asking.await.expect("granted");
    assert_eq!(mapping.spoken(), Spoken::Upnp);
    assert_eq!(mapping.external().ip(), IpAddr::from(OUTER));
    mapping.release().await;
    let asked = asked.lock().expect("no panic");
    assert_eq!(
        *asked,
        [
            "GetExternalIPAddress",
            "AddPortMapping",
            "DeletePortMapping"
        ]
    );
}
