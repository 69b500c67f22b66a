//! Takes a parsed TOML table apart key by key, remembering where everything stood.
//!
//! A key that is wrong is reported and reads as absent, so that the rest is still looked at and
//! all errors come in one run.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys;
use super::problem::{At, Problem, Problems, Span};

/// A value with the place it was read from.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: At,
}

type Node<'a> = Spanned<DeValue<'a>>;

/// One table of the file.
pub(super) struct Section<'a> {
    name: &'static str,
    /// The header, or the whole of an inline table; `None` when the file has no such section.
    span: Option<Span>,
    table: Option<&'a DeTable<'a>>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The top level of the file.
    pub(super) fn root(table: &'a DeTable<'a>, problems: &'a Problems) -> Self {
        let root = Self {
            name: "",
            span: None,
            table: Some(table),
            problems,
        };
        root.refuse_unknown();
        root
    }

    /// Where the section is, for what is missing in it.
    pub(super) fn at(&self) -> At {
        self.span.clone().map_or(At::End, At::Text)
    }

    /// Whether the file has the section, be it empty.
    pub(super) fn is_there(&self) -> bool {
        self.span.is_some()
    }

    /// What texts call the section: one of several listeners, or the section itself.
    pub(super) fn noun(&self) -> String {
        match self.name {
            "listener" => "this listener".into(),
            name => keys::header(name),
        }
    }

    /// The section `name` below the top level; an absent one reads as empty.
    pub(super) fn section(&self, name: &'static str) -> Self {
        let found = self.table.and_then(|table| table.get(name));
        let table = found.and_then(|node| match node.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.problems.push(
                    Problem::new(
                        At::Text(node.span()),
                        format!("`{name}` must be a section"),
                        format!("this is {}", with_article(other)),
                    )
                    .help(format!("open it by a line of its own: [{name}]")),
                );
                None
            }
        });
        let section = Self {
            name,
            span: found.map(Spanned::span),
            table,
            problems: self.problems,
        };
        section.refuse_unknown();
        section
    }

    /// The entries of an array of tables such as `[[listener]]`; `None` when there is none.
    pub(super) fn sections(&self, name: &'static str) -> Option<Vec<Self>> {
        let node = self.table?.get(name)?;
        let entries: Vec<&Node<'a>> = match node.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![node],
        };
        let is_list = node.get_ref().is_array();
        let mut found = Vec::new();
        for entry in entries {
            match entry.get_ref() {
                DeValue::Table(table) if is_list => {
                    let section = Self {
                        name,
                        span: Some(entry.span()),
                        table: Some(table),
                        problems: self.problems,
                    };
                    section.refuse_unknown();
                    found.push(section);
                }
                other => self.problems.push(
                    Problem::new(
                        At::Text(entry.span()),
                        format!("`{name}` must be a list of sections"),
                        match other {
                            DeValue::Table(_) => "this is a single section".into(),
                            other => format!("this is {}", with_article(other)),
                        },
                    )
                    .help(format!("write two brackets on each side: [[{name}]]")),
                ),
            }
        }
        Some(found)
    }

    /// A string.
    pub(super) fn text(&self, key: &'static str) -> Option<Found<String>> {
        let node = self.get(key)?;
        let Some(text) = node.get_ref().as_str() else {
            self.wrong_type(key, node, "a string");
            return None;
        };
        Some(found(text.into(), node))
    }

    /// One string or a list of strings; absent reads as `None`.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Found<String>>> {
        let node = self.get(key)?;
        match node.get_ref() {
            DeValue::String(text) => Some(vec![found(text.to_string(), node)]),
            DeValue::Array(array) => Some(
                array
                    .iter()
                    .filter_map(|item| match item.get_ref().as_str() {
                        Some(text) => Some(found(text.into(), item)),
                        None => {
                            self.wrong_type(key, item, "a list of strings");
                            None
                        }
                    })
                    .collect(),
            ),
            _ => {
                self.wrong_type(key, node, "a string or a list of strings");
                None
            }
        }
    }

    /// A table of strings, in the order of the names; absent reads as empty.
    pub(super) fn pairs(&self, key: &'static str) -> Vec<(Found<String>, Found<String>)> {
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        let Some(table) = node.get_ref().as_table() else {
            self.wrong_type(key, node, "a table of strings");
            return Vec::new();
        };
        table
            .iter()
            .filter_map(|(name, value)| match value.get_ref().as_str() {
                Some(text) => {
                    let name = Found {
                        value: name.get_ref().to_string(),
                        at: At::Text(name.span()),
                    };
                    Some((name, found(text.into(), value)))
                }
                None => {
                    let name = name.get_ref();
                    self.problems.push(
                        Problem::new(
                            At::Text(value.span()),
                            format!("`{}.{name}` must be a string", self.path(key)),
                            format!("this is {}", with_article(value.get_ref())),
                        )
                        .help("put the value in quotes"),
                    );
                    None
                }
            })
            .collect()
    }

    /// A whole number within `range`, with its place.
    pub(super) fn number(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Found<u64>> {
        let node = self.get(key)?;
        let Some(integer) = node.get_ref().as_integer() else {
            self.wrong_type(key, node, "a whole number");
            return None;
        };
        let value = i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| range.contains(value));
        let Some(value) = value else {
            let reason = match (range.start(), range.end()) {
                (low, high) if *high == u64::from(u32::MAX) => format!("must be {low} or more"),
                (low, high) => format!("must be {low} to {high}"),
            };
            self.problems.push(
                Problem::new(
                    At::Text(node.span()),
                    format!("`{}` is out of range", self.path(key)),
                    reason,
                )
                .help(self.example(key)),
            );
            return None;
        };
        Some(found(value, node))
    }

    /// A whole number that fits 32 bits.
    pub(super) fn number32(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        self.number(key, range)
            .and_then(|found| u32::try_from(found.value).ok())
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let node = self.get(key)?;
        let value = node.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(key, node, "true or false");
        }
        value
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<Found<T>> {
        let word = self.text(key)?;
        choose(&word, &self.path(key), choices, self.problems)
    }

    /// Full name of a key in this section.
    pub(super) fn path(&self, key: &str) -> String {
        match self.name {
            "" => key.into(),
            section => format!("{section}.{key}"),
        }
    }

    fn get(&self, key: &'static str) -> Option<&'a Node<'a>> {
        debug_assert!(
            keys::find(&self.path(key)).is_some(),
            "{} is missing in the list of keys",
            self.path(key)
        );
        self.table?.get(key)
    }

    fn example(&self, key: &str) -> String {
        let example = keys::find(&self.path(key)).map_or("", |key| key.example);
        format!("write for example: {key} = {example}")
    }

    fn wrong_type(&self, key: &str, node: &Node<'_>, wanted: &str) {
        self.problems.push(
            Problem::new(
                At::Text(node.span()),
                format!("`{}` must be {wanted}", self.path(key)),
                format!("this is {}", with_article(node.get_ref())),
            )
            .help(self.example(key)),
        );
    }

    /// Reports every key that this section does not have, with the nearest one that it has, or
    /// the section that the key belongs to.
    fn refuse_unknown(&self) {
        let known = || {
            let keys = keys::KEYS
                .iter()
                .filter_map(|key| match keys::split(key.path) {
                    (section, name) if section == self.name => Some(name),
                    _ => None,
                });
            let sections = keys::SECTIONS.iter().copied();
            keys.chain(sections.filter(|_| self.name.is_empty()))
        };
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if known().any(|known| known == name) {
                continue;
            }
            let elsewhere = keys::KEYS
                .iter()
                .map(|key| keys::split(key.path))
                .find(|(_, known)| *known == name);
            let help = if let Some((section, _)) = elsewhere {
                format!("`{name}` belongs in {}", keys::header(section))
            } else if let Some(nearest) = keys::nearest(name, known()) {
                format!("did you mean `{nearest}`?")
            } else {
                let all: Vec<&str> = known().collect();
                format!("known here: {}", all.join(", "))
            };
            self.problems.push(
                Problem::new(
                    At::Text(key.span()),
                    format!("unknown key `{name}`"),
                    match self.name {
                        "" => "not known at the top level".into(),
                        section => format!("not known in {}", keys::header(section)),
                    },
                )
                .help(help),
            );
        }
    }
}

/// One of a few words, wherever it came from.
pub(super) fn choose<T: Copy>(
    word: &Found<String>,
    path: &str,
    choices: &[(&'static str, T)],
    problems: &Problems,
) -> Option<Found<T>> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word.value) {
        return Some(Found {
            value: *value,
            at: word.at.clone(),
        });
    }
    let all: Vec<String> = choices.iter().map(|(n, _)| format!("\"{n}\"")).collect();
    let help = match keys::nearest(&word.value, choices.iter().map(|(name, _)| *name)) {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => keys::find(path).map_or_else(String::new, |key| {
            format!(
                "write for example: {} = {}",
                keys::split(path).1,
                key.example
            )
        }),
    };
    problems.push(
        Problem::new(
            word.at.clone(),
            format!("`{path}` cannot be \"{}\"", word.value),
            format!("must be one of {}", all.join(", ")),
        )
        .help(help),
    );
    None
}

fn found<T>(value: T, node: &Node<'_>) -> Found<T> {
    Found {
        value,
        at: At::Text(node.span()),
    }
}

fn with_article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
