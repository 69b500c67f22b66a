//! Overwrites the secrets in the text of a configuration, so that an error may quote its lines.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The keys of `[auth]` whose values are never shown.
const SECRET_KEYS: [&str; 3] = ["secrets", "users", "nonce_key"];

/// The text with every string under `auth.secrets`, `auth.users` and `auth.nonce_key` replaced by
/// asterisks of the same length in bytes, so that spans still fit. Names of users stay.
pub(super) fn mask(text: &str, table: &DeTable<'_>, syntax_is_broken: bool) -> String {
    let mut bytes = text.as_bytes().to_vec();
    if let Some(DeValue::Table(auth)) = table.get("auth").map(Spanned::get_ref) {
        for (key, value) in auth {
            if SECRET_KEYS.contains(&key.get_ref().as_ref()) {
                mask_strings(value, &mut bytes);
            }
        }
    }
    if syntax_is_broken {
        for span in suspicious(text) {
            overwrite(&mut bytes[span]);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn mask_strings(value: &Spanned<DeValue<'_>>, bytes: &mut [u8]) {
    match value.get_ref() {
        DeValue::String(_) => {
            let span = value.span();
            overwrite(&mut bytes[span]);
        }
        DeValue::Array(items) => items.iter().for_each(|item| mask_strings(item, bytes)),
        DeValue::Table(table) => table.iter().for_each(|(_, item)| mask_strings(item, bytes)),
        // A number where a string should be may be a password without its quotes.
        DeValue::Boolean(_) => {}
        _ => {
            let span = value.span();
            overwrite(&mut bytes[span]);
        }
    }
}

/// Quotes and line ends stay, so that the shape of the line does.
fn overwrite(bytes: &mut [u8]) {
    for byte in bytes {
        if !matches!(byte, b'"' | b'\'' | b'\n' | b'\r') {
            *byte = b'*';
        }
    }
}

/// What may hold a secret in a file that cannot be parsed: the right-hand side of every line
/// from a header `[auth…` to the next header, and of every line that begins with `auth.`.
fn suspicious(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut in_auth = false;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with("[auth") {
            in_auth = true;
        } else if trimmed.starts_with('[') && trimmed.trim_end().ends_with(']') {
            in_auth = false;
        } else if in_auth || trimmed.starts_with("auth") {
            let value = line.find('=').map_or(0, |equals| equals + 1);
            let value = value + line[value..].len() - line[value..].trim_start().len();
            found.push(start + value..start + line.len());
        }
        start += line.len();
    }
    found
}
