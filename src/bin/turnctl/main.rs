//! The companion for people: what is asked on the command line, and which module answers it.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Companion of a STUN and TURN server: measures any of them.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put load on a TURN server and say what came through
    ///
    /// Makes allocations, sends numbered and patterned payloads through them, and counts what is
    /// lost, duplicated or corrupted. The peers are run by this program itself, on an address
    /// that the server can reach. Exits with 0 when the run is within --max-loss, with 1 when it
    /// is not or could not be made, with 2 for a wrong command line.
    Bench(Box<bench::Options>),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bench(options) => bench::run(*options),
    };
    match done {
        Ok(code) => code,
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}
