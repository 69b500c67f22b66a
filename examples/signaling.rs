//! A pairing server inside another program: two devices that share an access key find each other
//! here.
//!
//! ```text
//! cargo run --example signaling -- 127.0.0.1:8080
//! curl -d '{"role":"initiator","access_key":"our key"}' http://127.0.0.1:8080/v1/pair
//! curl -d '{"role":"receiver","access_key":"our key"}' http://127.0.0.1:8080/v1/pair
//! ```

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use turnserver::signal;

fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:8080");
    let Ok(address) = address.parse::<SocketAddr>() else {
        eprintln!("usage: signaling [ADDRESS:PORT]");
        return ExitCode::from(2);
    };
    // Errors come back; nothing ends the program that embeds it.
    let endpoint = match signal::serve(address) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for address in endpoint.addresses() {
        println!("pairing on http://{address}/v1/pair and ws://{address}/v1/ws");
    }
    println!("the end of standard input stops it");
    // The endpoint has a thread of its own, so that the program does what it likes.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{} pairs were made", endpoint.snapshot().pairs);
    endpoint.stop();
    ExitCode::SUCCESS
}
