//! Reads what people want to know of a certificate: its names and when it expires.
//!
//! A small walk over DER (X.690) that knows just the fields of RFC 5280 section 4.1 on the way
//! there. Whether the certificate is good for TLS is for the TLS library to judge.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `version`, an explicit tag.
const VERSION: u8 = 0xA0;
/// `extensions`, an explicit tag.
const EXTENSIONS: u8 = 0xA3;
/// A dNSName among the alternative names.
const DNS_NAME: u8 = 0x82;
/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// The first certificate of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The DNS names that it is for.
    pub(crate) names: Vec<String>,
    /// When it expires, in Unix seconds.
    pub(crate) not_after: i64,
}

/// Reads a PEM file.
pub(crate) fn read(path: &Path) -> Result<Summary, String> {
    let der = CertificateDer::from_pem_file(path)
        .map_err(|error| format!("no certificate in {}: {error}", path.display()))?;
    summary(&der).ok_or_else(|| format!("the certificate in {} is malformed", path.display()))
}

fn summary(der: &[u8]) -> Option<Summary> {
    let certificate = Der(der).expect(SEQUENCE)?;
    let mut body = Der(Der(certificate).expect(SEQUENCE)?);
    if body.peek() == Some(VERSION) {
        body.next()?;
    }
    // serialNumber, signature, issuer.
    for _ in 0..3 {
        body.next()?;
    }
    let mut validity = Der(body.expect(SEQUENCE)?);
    validity.next()?;
    let (kind, not_after) = validity.next()?;
    let not_after = time(kind, not_after)?;
    let mut names = Vec::new();
    while let Some((tag, value)) = body.next() {
        if tag == EXTENSIONS {
            let mut extensions = Der(Der(value).expect(SEQUENCE)?);
            while let Some((_, extension)) = extensions.next() {
                names.extend(dns_names(extension).unwrap_or_default());
            }
        }
    }
    Some(Summary { names, not_after })
}

/// The names in an extension, if it is subjectAltName.
fn dns_names(extension: &[u8]) -> Option<Vec<String>> {
    let mut extension = Der(extension);
    if extension.expect(OBJECT_ID)? != SUBJECT_ALT_NAME {
        return None;
    }
    if extension.peek() == Some(BOOLEAN) {
        extension.next()?;
    }
    let mut list = Der(Der(extension.expect(OCTET_STRING)?).expect(SEQUENCE)?);
    let mut names = Vec::new();
    while let Some((tag, name)) = list.next() {
        if tag == DNS_NAME {
            names.push(std::str::from_utf8(name).ok()?.into());
        }
    }
    Some(names)
}

/// YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ (RFC 5280 section 4.1.2.5).
fn time(kind: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, rest) = match kind {
        // Two digits mean 1950 to 2049.
        UTC_TIME => (
            number(0..2).map(|y| if y < 50 { 2000 + y } else { 1900 + y })?,
            2,
        ),
        GENERALIZED_TIME => (number(0..4)?, 4),
        _ => return None,
    };
    let field = |index: usize| number(rest + 2 * index..rest + 2 * index + 2);
    let days = days_since_1970(year, field(0)?, field(1)?);
    Some(((days * 24 + field(2)?) * 60 + field(3)?) * 60 + field(4)?)
}

/// Days from 1970-01-01 in the Gregorian calendar: years begin in March, so that the leap day is
/// the last one, and 400 of them are always 146097 days.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A sequence of tag, length and value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (len, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                let len = bytes
                    .iter()
                    .fold(0, |len, byte| len << 8 | usize::from(*byte));
                (len, rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .and_then(|(found, value)| (found == tag).then_some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_known_dates() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(days_since_1970(2024, 2, 29), 19_782);
    }

    #[test]
    fn both_forms_of_time() {
        assert_eq!(time(UTC_TIME, b"240229120001Z"), Some(1_709_208_001));
        assert_eq!(
            time(GENERALIZED_TIME, b"20240229120001Z"),
            Some(1_709_208_001)
        );
        assert_eq!(time(UTC_TIME, b"500101000000Z"), Some(-631_152_000));
        assert_eq!(time(UTC_TIME, b"2402291200"), None);
    }

    #[test]
    fn names_and_expiry_of_a_fresh_certificate() {
        let names = vec!["turn.example.org".to_owned(), "*.example.org".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names.clone()).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 5, 7);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let found = summary(certificate.der()).unwrap();
        assert_eq!(found.names, names);
        assert_eq!(found.not_after, days_since_1970(2031, 5, 7) * 86_400);
        for cut in 0..certificate.der().len() {
            // Whatever is missing, it does not panic.
            let _ = summary(&certificate.der()[..cut]);
        }
    }
}
