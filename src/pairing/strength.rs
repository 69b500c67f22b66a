//! How well an access key resists guessing, as far as it can be told from its text.

use super::keys::AccessKey;

/// Letters in a row from which on they are taken for a word.
const WORD: usize = 4;

/// Bits that a letter of a word adds: what lists of words have for each letter.
const WORD_LETTER: f64 = 2.6;

/// Digits in a row from which on they are taken for a number that means something.
const NUMBER: usize = 3;

impl AccessKey {
    /// About how many bits a guesser has to try, at most: by length, by alphabet, and by what looks
    /// like words, numbers and repetition. Texts that many people know count for more than they
    /// are worth.
    pub fn estimated_bits(&self) -> u32 {
        // Truncation is what "about" allows.
        bits(self.text()) as u32
    }
}

fn bits(text: &str) -> f64 {
    let all: Vec<char> = text.chars().collect();
    let is_hex = |c: &char| c.is_ascii_hexdigit() || "-{}:".contains(*c);
    let hex = all.iter().all(is_hex) && all.iter().any(char::is_ascii_digit);
    let mut sum = 0.0;
    let mut before = None;
    for (at, &c) in all.iter().enumerate() {
        // What repeats the last one or counts on adds next to nothing.
        let step = before.map(|before| i64::from(u32::from(c)) - i64::from(before));
        before = Some(u32::from(c));
        sum += match c {
            _ if matches!(step, Some(-1..=1)) => 1.0,
            '-' | '{' | '}' | ':' if hex => 0.0,
            _ if hex => 4.0,
            c if c.is_alphabetic() && is_part(&all, at, WORD, joins_word) => WORD_LETTER,
            c if c.is_alphabetic() => 5.9,
            c if c.is_numeric() && is_part(&all, at, NUMBER, |_, c| c.is_numeric()) => 3.3,
            _ => 5.0,
        };
    }
    sum
}

/// Whether a character goes on with the word in which the one before stands.
fn joins_word(before: char, c: char) -> bool {
    c.is_alphabetic() && before.is_alphabetic() && (c.is_lowercase() || before.is_uppercase())
}

/// Whether the character at this place is one of at least `least` that belong together.
fn is_part(all: &[char], at: usize, least: usize, joins: impl Fn(char, char) -> bool) -> bool {
    let joined = |pair: &[char]| joins(pair[0], pair[1]);
    let behind = all[at..].windows(2).take_while(|pair| joined(pair)).count();
    let before = all[..=at].windows(2).rev();
    let before = before.take_while(|pair| joined(pair)).count();
    before + 1 + behind >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_think_of_is_weak_and_what_machines_draw_is_not() {
        for weak in [
            "k",
            "hunter2",
            "my-secret-key",
            "MySecretKey2024!!",
            "correct horse battery staple",
            "123456789012345678901234567890",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz",
            "Schlüssel 🔑",
            "5a5c28a5e4c14d6c",
        ] {
            assert!(bits(weak) < 80.0, "{weak}: {}", bits(weak));
        }
        for strong in [
            "5a5c28a5-e4c1-4d6c-9a0e-0d6b7f3a1c55",
            "d5160d3b84946dd6803655392ac5fe1c",
            "Yr_O637HJxTkrCTWPU1ZGg",
            "dQ3h6TzKpR9wXv2m",
            "gravel tundra cobalt whisper lantern pivot meadow orchid",
        ] {
            assert!(bits(strong) >= 80.0, "{strong}: {}", bits(strong));
        }
    }
}
