//! The configuration that a browser's RTCPeerConnection takes.

use std::net::IpAddr;

use serde::Serialize;
use turnserver::config::{Certificate, Listener, Protocol, Settings};

use crate::certificate;

/// `RTCConfiguration` (W3C WebRTC), with the lifetime of the credential beside it.
#[derive(Serialize)]
pub(crate) struct IceConfiguration {
    #[serde(rename = "iceServers")]
    ice_servers: [IceServer; 1],
    /// Seconds; absent for a credential that does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

#[derive(Serialize)]
struct IceServer {
    urls: Vec<String>,
    username: String,
    credential: String,
}

impl IceConfiguration {
    pub(crate) fn new(
        urls: Vec<String>,
        username: String,
        credential: String,
        ttl: Option<u64>,
    ) -> Self {
        Self {
            ice_servers: [IceServer {
                urls,
                username,
                credential,
            }],
            ttl,
        }
    }

    /// The JSON, ready to paste.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers can be written as JSON")
    }
}

/// The URLs of all listeners as the world sees them (RFC 7065), UDP first. `host` stands in
/// place of every address.
pub(crate) fn urls(settings: &Settings, host: Option<&str>) -> Vec<String> {
    let mut listeners: Vec<&Listener> = settings.listeners.iter().collect();
    listeners.sort_by_key(|listener| listener.protocol);
    let mut found: Vec<(bool, String)> = Vec::new();
    for listener in listeners {
        for address in &listener.addresses {
            for ip in seen_from_outside(settings, address.ip()) {
                for url in of_listener(listener, ip, address.port(), host) {
                    if !found.iter().any(|(_, known)| *known == url) {
                        found.push((ip.is_loopback(), url));
                    }
                }
            }
        }
    }
    // A loopback address is of use to nobody else, unless there is nothing else.
    if found.iter().any(|(loopback, _)| !loopback) {
        found.retain(|(loopback, _)| !loopback);
    }
    found.into_iter().map(|(_, url)| url).collect()
}

/// The addresses by which clients reach a listener: the public one of the same address in
/// `[relay]`, and for a wildcard all of its family.
fn seen_from_outside(settings: &Settings, listening: IpAddr) -> Vec<IpAddr> {
    let relays = &settings.relay.addresses;
    if listening.is_unspecified() {
        return relays
            .iter()
            .filter(|relay| relay.local.is_ipv4() == listening.is_ipv4())
            .map(|relay| relay.public)
            .collect();
    }
    let known = relays.iter().find(|relay| relay.local == listening);
    vec![known.map_or(listening, |relay| relay.public)]
}

fn of_listener(listener: &Listener, ip: IpAddr, port: u16, host: Option<&str>) -> Vec<String> {
    let address = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let plain = |transport| {
        let host = host.unwrap_or(&address);
        format!("turn:{host}:{port}?transport={transport}")
    };
    // Browsers check the name, so that a URL by address seldom works with TLS.
    let secure = |certificate| {
        let name = host.map(Into::into).or_else(|| name_of(certificate));
        let host = name.unwrap_or_else(|| address.clone());
        format!("turns:{host}:{port}?transport=tcp")
    };
    let mut urls = match listener.protocol {
        Protocol::Udp => vec![plain("udp")],
        Protocol::Tcp => vec![plain("tcp")],
        Protocol::Tls => Vec::new(),
    };
    urls.extend(listener.certificate.as_ref().map(secure));
    urls
}

/// The first name that a certificate is for, unless it is a pattern.
fn name_of(certificate: &Certificate) -> Option<String> {
    let names = certificate::read(&certificate.chain).ok()?.names;
    names.into_iter().find(|name| !name.contains('*'))
}
