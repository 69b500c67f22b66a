//! The access key, from where the user put it.

use std::path::Path;

use turnserver::pairing::AccessKey;

use super::Failure;

/// Holds the access key when the argument is `-` and there is no file.
const VARIABLE: &str = "TURNCTL_KEY";

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
