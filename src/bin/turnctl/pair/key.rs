//! The access key, from where the user put it, and a fresh one.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use turnserver::pairing::AccessKey;

use super::Failure;
use crate::say;

/// Holds the access key when the argument is `-` and there is no file.
const VARIABLE: &str = "TURNCTL_KEY";

/// Below so many bits a key is warned of: who learns the rendezvous id, the server's operator for
/// one, can try keys as fast as machines can.
const ENOUGH_BITS: u32 = 80;

/// `turnctl key`.
pub(crate) fn print() -> Result<ExitCode, Box<dyn Error>> {
    say::result(fresh()?)?;
    Ok(ExitCode::SUCCESS)
}

/// 128 random bits as 32 hexadecimal digits, which every shell and terminal leaves in one piece.
fn fresh() -> Result<String, String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| error.to_string())?;
    Ok(bits.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// What to say of a key that may be guessed.
pub(super) fn warning(key: &AccessKey) -> Option<String> {
    let bits = key.estimated_bits();
    (bits < ENOUGH_BITS).then(|| {
        format!(
            "this access key can be guessed (about {bits} bits at best), by the server's operator \
             and, without https, by whoever sees its traffic; `turnctl key` prints a strong one"
        )
    })
}

pub(super) fn read(argument: &str, file: Option<&Path>) -> Result<AccessKey, Failure> {
    let text = match (argument, file) {
        ("-", Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        ("-", None) => std::env::var(VARIABLE).map_err(|_| {
            Failure::Usage(format!(
                "the key `-` needs --key-file or the environment variable {VARIABLE}"
            ))
        })?,
        (_, Some(_)) => {
            return Err(Failure::Usage(
                "--key-file is read when the access key is given as `-`".into(),
            ));
        }
        (text, None) => text.to_owned(),
    };
    AccessKey::new(&text).map_err(|error| Failure::Usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_keys_are_strong_and_never_the_same() {
        let fresh = || fresh().expect("random numbers");
        for _ in 0..1000 {
            let key = fresh();
            assert_eq!(key.len(), 32);
            assert_ne!(key, super::fresh().expect("random numbers"));
            assert_eq!(
                warning(&AccessKey::new(&key).expect("a key")),
                None,
                "{key}"
            );
        }
        let weak = AccessKey::new("my-secret-key").expect("a key");
        let words = warning(&weak).expect("a warning");
        assert!(words.contains("turnctl key") && !words.contains("my-secret-key"));
    }
}
