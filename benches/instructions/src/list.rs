//! All operations that are counted, by name.

use std::hint::black_box;

use turnserver::wire::{Integrity, PasswordAlgorithm};

use crate::{core_operations as core, wire_operations as wire};

/// An operation that is ready to be done.
pub(crate) type Operation = Box<dyn FnMut()>;

/// Makes an operation ready.
pub(crate) type Maker = Box<dyn FnMut() -> Operation>;

fn operation<T, F>(
    name: impl Into<String>,
    mut make: impl FnMut() -> F + 'static,
) -> (String, Maker)
where
    F: FnMut() -> T + 'static,
{
    let maker = move || {
        let mut operation = make();
        let operation: Operation = Box::new(move || {
            black_box(operation());
        });
        operation
    };
    (name.into(), Box::new(maker))
}

/// The operations, in the order of the table.
pub(crate) fn all() -> Vec<(String, Maker)> {
    let mut all = Vec::new();
    for peers in [1, 1000] {
        all.extend([
            operation(format!("channel_data_to_peer/{peers}"), move || {
                core::channel_data_to_peer(peers)
            }),
            operation(format!("send_to_peer/{peers}"), move || {
                core::send_to_peer(peers)
            }),
            operation(format!("peer_to_channel/{peers}"), move || {
                core::peer_to_channel(peers)
            }),
            operation(format!("peer_to_data_indication/{peers}"), move || {
                core::peer_to_data_indication(peers)
            }),
        ]);
    }
    all.extend([
        operation("relay_to_relay", core::relay_to_relay),
        operation("relay_to_relay_of_a_pair", core::relay_to_relay_of_a_pair),
        operation("channel_data_over_allocations/1000", || {
            core::channel_data_over_allocations(1000)
        }),
        operation("binding", core::binding),
        operation("challenge", core::challenge),
        operation("authenticated_refresh", core::authenticated_refresh),
        operation(
            "authenticated_refresh_of_a_secret",
            core::authenticated_refresh_of_a_secret,
        ),
        operation("allocate_and_delete", core::allocate_and_delete),
        operation(
            "allocate_and_delete_of_a_secret",
            core::allocate_and_delete_of_a_secret,
        ),
        operation("lease_when_free/258048", || core::lease_when_free(258_048)),
        operation("lease_when_free/1", || core::lease_when_free(1)),
        operation("parse_binding", wire::parse_binding),
        operation("build_binding_success", wire::build_binding_success),
        operation("parse_allocate", wire::parse_allocate),
    ]);
    for (which, name) in [(Integrity::Sha1, "sha1"), (Integrity::Sha256, "sha256")] {
        all.extend([
            operation(format!("parse_and_verify_allocate/{name}"), move || {
                wire::parse_and_verify_allocate(which)
            }),
            operation(format!("build_allocate/{name}"), move || {
                wire::build_allocate(which)
            }),
        ]);
    }
    for (algorithm, name) in [
        (PasswordAlgorithm::Md5, "md5"),
        (PasswordAlgorithm::Sha256, "sha256"),
    ] {
        all.push(operation(format!("derive_key/{name}"), move || {
            wire::derive_key(algorithm)
        }));
    }
    all.extend([
        operation("time_limited_password", wire::time_limited_password),
        operation("read_send_indication/1200", || {
            wire::read_send_indication(1200)
        }),
        operation("read_channel_data", wire::read_channel_data),
        operation("data_indication", wire::data_indication),
        operation("frame_channel_data", wire::frame_channel_data),
    ]);
    all
}
