//! What was found out, for programs (JSON) and for people.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// Whose business it is to which address a NAT maps a socket (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// There is no NAT: the address is the machine's own.
    None,
    /// The same for every destination.
    EndpointIndependent,
    /// Another for each destination address.
    AddressDependent,
    /// Another for each destination address and port.
    AddressAndPortDependent,
    /// The same for several ports of one address. With one server address it cannot be told
    /// whether it is the same for other addresses.
    SameForOneAddress,
    /// Not known: too few servers answered.
    Unknown,
}

/// From whom a NAT or firewall lets datagrams in (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// From everybody, once something was sent to anybody.
    EndpointIndependent,
    /// From addresses to which something was sent.
    AddressDependent,
    /// From addresses and ports to which something was sent.
    AddressAndPortDependent,
    /// From other ports of an address to which something was sent; other addresses were not
    /// tried.
    OtherPorts,
    /// Not known: the server cannot answer from elsewhere.
    Unknown,
}

/// How a NAT chooses ports for new sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ports {
    /// The socket's own.
    Preserved,
    /// Each so many above the one before.
    Sequential {
        /// How many; negative when they count down.
        delta: i32,
    },
    /// Not predictable.
    Random,
    /// Not known: too few answers.
    Unknown,
}

/// For how long a NAT remembers a socket that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lifetime {
    /// It was still there after so many seconds.
    pub at_least_s: u64,
    /// It was gone after so many; `None` when it outlived the test.
    pub less_than_s: Option<u64>,
}

/// The own address as one server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Who was asked.
    pub server: SocketAddr,
    /// What it saw.
    pub mapped: SocketAddr,
}

/// What lies between this machine and the server, for one address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `4` or `6`.
    pub ip_version: u8,
    /// The socket that asked.
    pub local: SocketAddr,
    /// All that servers saw of that socket; empty when none answered.
    pub seen: Vec<Seen>,
    /// To which addresses sockets are mapped.
    pub mapping: Mapping,
    /// Who is let in.
    pub filtering: Filtering,
    /// How ports are chosen.
    pub ports: Ports,
    /// Whether two machines behind this NAT reach each other by their outer addresses; `None`
    /// when there is no NAT.
    pub hairpin: Option<bool>,
    /// Absent when it was not asked for, or the server cannot help.
    pub lifetime: Option<Lifetime>,
}

impl Report {
    /// What this means for connecting to others.
    pub const fn outlook(&self) -> &'static str {
        if self.seen.is_empty() {
            return "connections will use the relay, over TCP";
        }
        match (self.mapping, self.ports) {
            (Mapping::None | Mapping::EndpointIndependent, _) => {
                "direct connections succeed with nearly everybody"
            }
            (Mapping::SameForOneAddress | Mapping::Unknown, _) => {
                "direct connections will probably succeed"
            }
            (_, Ports::Sequential { .. }) => {
                "direct connections mostly succeed, by guessing the next port; else the relay is used"
            }
            _ => {
                "direct connections succeed with peers behind easier NATs; between two NATs of \
                 this kind the relay is used"
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.seen.first() else {
            return write!(
                f,
                "IPv{}: no answer over UDP; it is blocked, or no server is there\nOutlook:    {}",
                self.ip_version,
                self.outlook()
            );
        };
        writeln!(f, "IPv{}: seen as {}", self.ip_version, first.mapped)?;
        writeln!(f, "Mapping:    {}", self.mapping)?;
        writeln!(f, "Filtering:  {}", self.filtering)?;
        writeln!(f, "Ports:      {}", self.ports)?;
        let hairpin = match self.hairpin {
            Some(true) => "yes, the own outer address can be reached from inside",
            Some(false) => "no, the own outer address cannot be reached from inside",
            None => "not needed",
        };
        writeln!(f, "Hairpin:    {hairpin}")?;
        if let Some(lifetime) = self.lifetime {
            writeln!(f, "Lifetime:   {lifetime}")?;
        }
        write!(f, "Outlook:    {}", self.outlook())
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none, there is no NAT",
            Self::EndpointIndependent => "the same outer address for every destination",
            Self::AddressDependent => "another outer address for each destination address",
            Self::AddressAndPortDependent => {
                "another outer address for each destination address and port (a symmetric NAT)"
            }
            Self::SameForOneAddress => {
                "the same outer address for several ports of the server; whether for other \
                 addresses too, a server with one address cannot tell"
            }
            Self::Unknown => "not known, only one server port answered",
        })
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointIndependent => "anybody may send in, once the socket is in use",
            Self::AddressDependent => "only addresses that were sent to may send in",
            Self::AddressAndPortDependent => {
                "only addresses and ports that were sent to may send in"
            }
            Self::OtherPorts => {
                "other ports of an address that was sent to may send in; other addresses were not \
                 tried"
            }
            Self::Unknown => "not known, the server cannot answer from another address",
        })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserved => f.write_str("kept as they are"),
            Self::Sequential { delta } => write!(f, "in sequence, {delta:+} each"),
            Self::Random => f.write_str("at random"),
            Self::Unknown => f.write_str("not known"),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.less_than_s {
            Some(less) => write!(f, "between {} and {less} s of silence", self.at_least_s),
            None => write!(f, "more than {} s of silence", self.at_least_s),
        }
    }
}
