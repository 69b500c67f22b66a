//! Where the pairing server is, as a user writes it.

use std::fmt;
use std::str::FromStr;

/// `host:port`, `http://host[:port]` or `https://host[:port]`; an IPv6 address stands in
/// brackets. A path behind it is where a proxy has put the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    tls: bool,
    host: Box<str>,
    port: u16,
    path: Box<str>,
}

/// Why a text names no pairing server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlError(&'static str);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UrlError {}

impl ServerUrl {
    /// Whether TLS is wanted.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// A name or an address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, over which TCP and, for the server's STUN, also UDP is spoken.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the WebSocket.
    pub(super) fn websocket(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{}/v1/ws", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (tls, default_port, rest) = match text.split_once("://") {
            // RFC 3986 section 3.1: in whichever case.
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, Some(80), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, Some(443), rest),
            Some(_) => return Err(UrlError("the URL begins with neither http:// nor https://")),
            None => (false, None, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UrlError("a user name in the URL is not supported"));
        }
        let plain = |c: char| c.is_ascii_graphic() && !"?#%\\\"<>".contains(c);
        if !path.chars().all(plain) {
            return Err(UrlError("the path has characters that it cannot have"));
        }
        let (host, port) = split_port(authority)?;
        let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let valid = match host.contains(':') {
            true => host.parse::<std::net::Ipv6Addr>().is_ok(),
            false => !host.is_empty() && host.chars().all(named),
        };
        if !valid {
            return Err(UrlError("the host is neither a name nor an address"));
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|&port| port != 0),
            None => default_port,
        };
        Ok(Self {
            tls,
            host: host.into(),
            port: port.ok_or(UrlError("the port is missing or not between 1 and 65535"))?,
            path: path.trim_end_matches('/').into(),
        })
    }
}

/// Takes `host`, `host:port`, `[address]` or `[address]:port` apart.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UrlError("a ] is missing"))?;
        return match rest {
            "" => Ok((host, None)),
            _ => match rest.strip_prefix(':') {
                Some(port) => Ok((host, Some(port))),
                None => Err(UrlError("behind the ] only a port can follow")),
            },
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(UrlError(
            "an IPv6 address is written in brackets: [::1]:8080",
        )),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_a_user_writes() {
        for (text, shown) in [
            ("example.org:8080", "http://example.org:8080"),
            ("192.0.2.1:8080", "http://192.0.2.1:8080"),
            ("[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
            ("http://example.org", "http://example.org:80"),
            ("https://example.org/", "https://example.org:443"),
            ("https://[::1]", "https://[::1]:443"),
            ("https://example.org/pair/", "https://example.org:443/pair"),
            ("HTTP://example.org", "http://example.org:80"),
            ("Https://example.org/P", "https://example.org:443/P"),
        ] {
            let url: ServerUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
        let url: ServerUrl = "https://example.org/p".parse().expect("a URL");
        assert_eq!(url.websocket(), "wss://example.org:443/p/v1/ws");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in [
            "",
            "example.org",
            "example.org:0",
            "example.org:65536",
            "example.org:x",
            ":8080",
            "::1:8080",
            "[::1",
            "[::1]8080",
            "[localhost]:80 ",
            "ftp://example.org",
            "http://user@example.org",
            "http://example.org/a b",
            "[example.org]:80x",
            "ex ample.org:80",
            "http://a:80/?q",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
        for text in ["http://u:p@h:1", "u@h:1", "https://u:p@[::1]"] {
            let error = text.parse::<ServerUrl>().expect_err("refused");
            assert!(error.to_string().contains("a user name"), "{text}: {error}");
        }
    }
}
