//! `[signaling]`: where two devices find each other. A file without the section has it off.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use super::addresses::{socket_address, wildcards};
use super::certificate::{CertificateCheck, certificate};
use super::machine::Machine;
use super::problem::{Problem, Problems};
use super::reader::{Found, Section};
use super::settings::Signaling;

/// What HTTP servers that are not the machine's web server usually take.
const PORT: u16 = 8080;
/// The port of Fractal's clients.
const FRACTAL_PORT: u16 = 48_800;

/// The section, and where its addresses stood.
pub(super) fn signaling(
    section: &Section<'_>,
    directory: &Path,
    machine: &Machine,
    check: Option<&CertificateCheck>,
    problems: &Problems,
) -> Option<(Signaling, Vec<Found<SocketAddr>>)> {
    if !section.is_there() {
        return None;
    }
    let default = Signaling::default();
    let certificate = certificate(section, None, directory, check, problems);
    let mut addresses: Vec<Found<SocketAddr>> = match section.texts("address") {
        None => wildcards(PORT, machine)
            .into_iter()
            .map(|value| Found {
                value,
                at: section.at(),
            })
            .collect(),
        Some(texts) => {
            if texts.is_empty() {
                problems.push(
                    Problem::new(
                        section.at(),
                        "`signaling.address` is empty",
                        "nobody could be paired",
                    )
                    .help("write an address, or remove the section to switch pairing off"),
                );
            }
            texts
                .iter()
                .filter_map(|text| socket_address(text, "signaling.address", PORT, problems))
                .collect()
        }
    };
    let others = |key, path, port| -> Vec<Found<SocketAddr>> {
        let texts = section.texts(key).unwrap_or_default();
        let addresses = texts.iter();
        addresses
            .filter_map(|text| socket_address(text, path, port, problems))
            .collect()
    };
    let fractal = others("fractal", "signaling.fractal", FRACTAL_PORT);
    let fractal_first = others("fractal_first", "signaling.fractal_first", FRACTAL_PORT + 1);
    let number = |key, low, high, fallback| section.number32(key, low..=high).unwrap_or(fallback);
    let seconds = |key, high, fallback: Duration| {
        let found = section.number(key, 1..=high);
        found.map_or(fallback, |found| Duration::from_secs(found.value))
    };
    let settings = Signaling {
        addresses: addresses.iter().map(|found| found.value).collect(),
        certificate,
        max_wait: seconds("max_wait", 3600, default.max_wait),
        joins_per_minute: number("joins_per_minute", 0, u32::MAX, default.joins_per_minute),
        waiting: number("waiting", 1, 10_000_000, default.waiting),
        connections_per_source: number(
            "connections_per_source",
            1,
            10_000_000,
            default.connections_per_source,
        ),
        credential_ttl: section
            .number("credential_ttl", 1..=31_536_000)
            .map_or(default.credential_ttl, |found| found.value),
        pair_lifetime: section
            .number("pair_lifetime", 1..=31_536_000)
            .map_or(default.pair_lifetime, |found| found.value),
        relay_share: section
            .number("relay_share", 1..=100)
            .and_then(|found| u8::try_from(found.value).ok())
            .unwrap_or(default.relay_share),
        allocations_per_source: number(
            "allocations_per_source",
            0,
            u32::MAX,
            default.allocations_per_source,
        ),
        bandwidth_per_allocation: section
            .number("bandwidth_per_allocation", 0..=1_000_000_000_000)
            .map_or(default.bandwidth_per_allocation, |found| found.value),
        stunturn: section.flag("stunturn").unwrap_or(default.stunturn),
        fractal: ipv4_only(&fractal, problems),
        fractal_first: ipv4_only(&fractal_first, problems),
    };
    // It is listened on by TCP, too.
    addresses.extend(fractal);
    Some((settings, addresses))
}

/// Those protocols have no room for other addresses.
fn ipv4_only(found: &[Found<SocketAddr>], problems: &Problems) -> Vec<SocketAddrV4> {
    let each = found.iter().filter_map(|found| match found.value {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(address) => {
            problems.push(
                Problem::new(
                    found.at.clone(),
                    format!("clients of Fractal cannot reach {address}"),
                    "their protocol knows IPv4 only",
                )
                .help("write for example \"0.0.0.0:48800\""),
            );
            None
        }
    });
    each.collect()
}
