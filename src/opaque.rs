//! OpaqueString (RFC 8265 section 4.2): the one form of a user name, realm or password that both
//! ends hash. The configuration refuses what has no such form, the credential store applies it;
//! clients apply it before they send.

use std::borrow::Cow;
use std::fmt;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation;

/// Why a text cannot be a user name, realm or password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueError {
    /// It is empty.
    Empty,
    /// It holds a control character, a line break for example.
    Control,
    /// It holds a character that RFC 8265 does not allow.
    Disallowed,
}

impl fmt::Display for OpaqueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Control => "contains a control character",
            Self::Disallowed => "contains a character that OpaqueString (RFC 8265) does not allow",
        })
    }
}

impl std::error::Error for OpaqueError {}

/// The OpaqueString form of a text: non-ASCII spaces become spaces, then NFC; case is kept.
pub fn opaque_string(text: &str) -> Result<Cow<'_, str>, OpaqueError> {
    if text.is_empty() {
        return Err(OpaqueError::Empty);
    }
    if text.chars().any(char::is_control) {
        return Err(OpaqueError::Control);
    }
    // Printable ASCII is its own form, and nearly all there is.
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    OpaqueString::enforce(text).map_err(|_| OpaqueError::Disallowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_ascii_stays_as_it_is() {
        let all: String = (' '..='~').collect();
        assert!(matches!(opaque_string(&all), Ok(Cow::Borrowed(same)) if same == all));
        // What the fast path skips agrees with the profile.
        assert_eq!(OpaqueString::enforce(all.as_str()).unwrap(), all);
    }

    #[test]
    fn the_examples_of_rfc_8265() {
        // Section 4.3, table 4.
        let unchanged = [
            "correct horse battery staple",
            "Correct Horse Battery Staple",
            "πßå",
            "Jack of ♦s",
        ];
        for text in unchanged {
            assert_eq!(opaque_string(text).unwrap(), text);
        }
        // Example 14: the Ogham space mark becomes a space.
        assert_eq!(opaque_string("foo\u{1680}bar").unwrap(), "foo bar");
        // Examples 15 and 16.
        assert_eq!(opaque_string(""), Err(OpaqueError::Empty));
        assert_eq!(opaque_string("my cat is a \tby"), Err(OpaqueError::Control));
    }

    #[test]
    fn composed_and_decomposed_are_one_text() {
        assert_eq!(opaque_string("Zoe\u{308}").unwrap(), "Zo\u{eb}");
    }

    #[test]
    fn control_characters_of_both_sets_are_refused() {
        for text in ["a\0", "a\n", "\u{7f}", "ä\u{85}"] {
            assert_eq!(opaque_string(text), Err(OpaqueError::Control), "{text:?}");
        }
    }
}
