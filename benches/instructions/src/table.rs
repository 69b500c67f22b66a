//! The committed table: a line that says which compiler it is of, and a line for each operation.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/expected.txt");

const TITLE: &str = "# Instructions of one operation. Renewed on purpose only: \
                     cargo run --release -p instructions -- --write";

/// Instructions by operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Version and target of the compiler.
    compiler: String,
    counts: Vec<(String, u64)>,
}

/// How much more than expected is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tolerance {
    SameCompiler,
    /// Another version inlines differently, another target has other instructions: only what is
    /// far off is the code's doing.
    OtherCompiler,
}

/// A few instructions more or less of a short operation are nothing, whatever their share.
const ALWAYS: u64 = 3;

impl Tolerance {
    pub(crate) fn between(expected: &Table, counted: &Table) -> Self {
        match expected.compiler == counted.compiler {
            true => Self::SameCompiler,
            false => Self::OtherCompiler,
        }
    }

    const fn percent(self) -> u64 {
        match self {
            Self::SameCompiler => 5,
            Self::OtherCompiler => 30,
        }
    }

    const fn most(self, expected: u64) -> u64 {
        expected + expected * self.percent() / 100 + ALWAYS
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.percent();
        match self {
            Self::SameCompiler => write!(f, "{percent} %"),
            Self::OtherCompiler => write!(f, "{percent} % (the table is of another compiler)"),
        }
    }
}

impl Table {
    pub(crate) const fn new(compiler: String, counts: Vec<(String, u64)>) -> Self {
        Self { compiler, counts }
    }

    /// Reads the committed table.
    pub(crate) fn read() -> Result<Self, String> {
        let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
        Self::parse(&text).map_err(|line| format!("{FILE}: what is this line? {line}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self::new(String::new(), Vec::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(compiler) = line.strip_prefix("compiler: ") {
                compiler.clone_into(&mut table.compiler);
                continue;
            }
            let parts = line.split_once(char::is_whitespace);
            let count = parts.and_then(|(name, count)| Some((name, count.trim().parse().ok()?)));
            let (name, count) = count.ok_or(line)?;
            table.counts.push((name.to_owned(), count));
        }
        Ok(table)
    }

    /// Replaces the committed table.
    pub(crate) fn write(&self) -> Result<(), String> {
        fs::write(FILE, self.to_string()).map_err(|error| format!("{FILE}: {error}"))
    }

    fn by_name(&self) -> BTreeMap<&str, u64> {
        let counts = self.counts.iter();
        counts
            .map(|(name, count)| (name.as_str(), *count))
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}\ncompiler: {}", self.compiler)?;
        for (name, count) in &self.counts {
            writeln!(f, "{name:<36}{count:>8}")?;
        }
        Ok(())
    }
}

/// What is wrong with what was counted; nothing when all is well.
pub(crate) fn compare(expected: &Table, counted: &Table, tolerance: Tolerance) -> Vec<String> {
    let mut findings = Vec::new();
    let (known, now) = (expected.by_name(), counted.by_name());
    for (name, &count) in &now {
        match known.get(name) {
            None => findings.push(format!("{name}: not in the table")),
            Some(&known) if count > tolerance.most(known) => findings.push(format!(
                "{name}: {count} instructions, and {known} were expected ({:+.1} %, allowed: {tolerance})",
                change(known, count)
            )),
            Some(_) => {}
        }
    }
    for name in known.keys().filter(|name| !now.contains_key(*name)) {
        findings.push(format!(
            "{name}: in the table, and there is no such operation"
        ));
    }
    findings
}

/// All counts, with what they were.
pub(crate) fn side_by_side(expected: &Table, counted: &Table) -> String {
    let known = expected.by_name();
    let lines = counted.counts.iter().map(|(name, count)| {
        let before = known.get(name.as_str());
        let before = before.map_or_else(String::new, |&known| {
            format!("{known:>10}{:>+9.1} %", change(known, *count))
        });
        format!("{name:<36}{count:>8}{before}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn change(before: u64, now: u64) -> f64 {
    100.0 * (now as f64 / before.max(1) as f64 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(compiler: &str, counts: &[(&str, u64)]) -> Table {
        let counts = counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        Table::new(compiler.to_owned(), counts.collect())
    }

    fn findings(expected: &Table, counted: &Table) -> Vec<String> {
        compare(expected, counted, Tolerance::between(expected, counted))
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let table = table("rustc 1.95.0, x86_64", &[("a/1", 10), ("b", 12_345_678)]);
        assert_eq!(Table::parse(&table.to_string()), Ok(table));
        assert!(Table::parse("name without-a-number").is_err());
    }

    #[test]
    fn what_costs_more_is_found_and_what_costs_less_is_not() {
        let expected = table("one", &[("a", 1000), ("b", 1000), ("c", 10)]);
        let counted = table("one", &[("a", 1053), ("b", 500), ("c", 13)]);
        assert_eq!(findings(&expected, &counted), Vec::<String>::new());
        let counted = table("one", &[("a", 1054), ("b", 1000), ("c", 14)]);
        let found = findings(&expected, &counted);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a: 1054") && found[1].starts_with("c: 14"));
    }

    #[test]
    fn another_compiler_has_more_room() {
        let expected = table("one", &[("a", 1000)]);
        assert!(findings(&expected, &table("two", &[("a", 1300)])).is_empty());
        assert_eq!(findings(&expected, &table("two", &[("a", 1304)])).len(), 1);
    }

    #[test]
    fn both_sides_name_the_same_operations() {
        let expected = table("one", &[("gone", 1)]);
        let found = findings(&expected, &table("one", &[("new", 1)]));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
