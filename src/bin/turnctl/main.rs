//! The companion for people: what is asked on the command line, and which module answers it.

// They panic where standard output or error cannot be written to; `say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod nat;
mod pair;
mod say;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Companion of a STUN and TURN server: connects two devices, and measures any server.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Connect to the device that has the same access key
    ///
    /// One side names udp or tcp and waits, the other leaves it out. Standard input goes to the
    /// peer and the peer's bytes to standard output, nothing else does; progress goes to standard
    /// error. End of input ends that direction; it exits when both have ended: with 0 after a
    /// connection that ended in order, 2 for a wrong command line, 3 when nobody waited, 4 when
    /// nobody came in time, 5 when there is no path, 6 when the other side does not have the same
    /// key, 1 for anything else. Ctrl-C or SIGTERM breaks the connection off: the peer is told,
    /// nothing is left at the server, and within 2 s it exits with 130 or 143; a second one ends
    /// it at once.
    Connect(Box<pair::Connect>),
    /// Stay, and take one device after the other
    ///
    /// Without --to, each device in turn talks to this terminal. With --to, all of them reach
    /// that address, through `turnctl forward` or `turnctl connect`. Ctrl-C or SIGTERM ends it in
    /// order; it exits as `turnctl connect`.
    Host(Box<pair::Host>),
    /// Make a local port the one that `turnctl host --to` serves on the other side
    ///
    /// When the connection to the other side ends, the local port stays, and the connection is
    /// made again as soon as that can be. Meanwhile a TCP client waits for 5 s and is then
    /// refused. Ctrl-C or SIGTERM ends it in order; it exits as `turnctl connect`, also when the
    /// first connection cannot be made.
    Forward(Box<pair::Forward>),
    /// Print a fresh access key that nobody guesses
    ///
    /// 128 random bits. Both devices need the same one.
    Key,
    /// Say which NAT this machine is behind, and what that means
    ///
    /// Asks the server's own port and 3478 over UDP (RFC 5780). Exits with 1 when none answered, with
    /// 2 for a wrong command line.
    Nat(Box<nat::Options>),
    /// Put load on a TURN server and say what came through
    ///
    /// Makes allocations, sends numbered and patterned payloads through them, and counts what is
    /// lost, duplicated or corrupted. The peers are run by this program itself, on an address
    /// that the server can reach. Exits with 0 when loss and duplicates are each within --max-loss
    /// and nothing was corrupted, with 1 when not or when the run could not be made, with 2 for a
    /// wrong command line.
    Bench(Box<bench::Options>),
}

fn main() -> ExitCode {
    let done: Result<ExitCode, Box<dyn Error>> = match Cli::parse().command {
        Command::Bench(options) => bench::run(*options),
        Command::Connect(options) => pair::connect(&options).map_err(Into::into),
        Command::Host(options) => pair::host(&options).map_err(Into::into),
        Command::Forward(options) => pair::forward(&options).map_err(Into::into),
        Command::Key => pair::key(),
        Command::Nat(options) => nat::run(&options),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            if !say::nobody_reads(&*error) {
                say::aside(format_args!("error: {error}\n"));
            }
            ExitCode::FAILURE
        }
    }
}
