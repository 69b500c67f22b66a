//! TCP connections of small messages, each of which is waited for.

use std::io;

use tokio::net::TcpStream;

/// Lets every message out at once, and again when it is lost: where the system can do so, after the
/// same time six times, and only then after twice the time before (Linux: thin streams). Bulk data
/// is not touched by that.
///
/// # Errors
/// What the system says of a connection that is gone.
pub(in crate::client) fn prompt(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_thin_linear_timeouts(true);
    Ok(())
}
