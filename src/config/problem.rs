//! What is wrong with a configuration: where, why, and what to write instead.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// Bytes of the file.
pub(super) type Span = Range<usize>;

/// Where a problem is.
#[derive(Clone, Debug)]
pub(super) enum At {
    /// In the text of the file.
    Text(Span),
    /// At the end of the file: something is missing.
    End,
    /// The file as a whole: it cannot be read.
    File,
    /// In an environment variable or a flag, named here.
    Outside(&'static str),
}

/// One problem.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    at: At,
    title: String,
    label: String,
    also: Option<(Span, &'static str)>,
    help: Option<String>,
}

impl Problem {
    /// A problem with its title (what is wrong) and the label of its caret (why).
    pub(super) fn new(at: At, title: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            at,
            title: title.into(),
            label: label.into(),
            also: None,
            help: None,
        }
    }

    /// Adds what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Points at a second place.
    pub(super) fn also(mut self, span: Span, label: &'static str) -> Self {
        self.also = Some((span, label));
        self
    }
}

/// Collects the problems of one run; sections share it while they are read.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes one problem.
    pub(super) fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// How many were noted.
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// All of them, in the order of the file, as errors of the file `name` with its text.
    /// `masked` is the text with its secrets overwritten, byte for byte.
    pub(super) fn into_errors(self, name: &str, masked: String) -> Errors {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| match &problem.at {
            At::Text(span) => (0, span.start),
            At::End => (1, 0),
            At::File => (2, 0),
            At::Outside(_) => (3, 0),
        });
        Errors {
            name: name.into(),
            text: masked,
            problems,
        }
    }
}

/// Everything that is wrong with a configuration; at least one thing.
#[derive(Clone, Debug)]
pub struct Errors {
    name: String,
    text: String,
    problems: Vec<Problem>,
}

/// One error in one line, for structured logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    /// `file:line:column`, the file alone, or the environment variable or flag.
    pub place: String,
    /// What is wrong and why.
    pub message: String,
    /// What to write instead, if that is known.
    pub help: Option<String>,
}

impl Errors {
    /// How many errors there are.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Each error in short.
    pub fn briefs(&self) -> Vec<Brief> {
        self.problems
            .iter()
            .map(|problem| Brief {
                place: self.place(&problem.at),
                message: match problem.label.as_str() {
                    "" => problem.title.clone(),
                    label => format!("{}: {label}", problem.title),
                },
                help: problem.help.clone(),
            })
            .collect()
    }

    /// The full text, with the offending lines and carets, coloured or not.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for problem in &self.problems {
            out.push_str(&self.render_one(&renderer, problem));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out
    }

    /// How many errors there are in the file, and in each variable and flag.
    fn summary(&self) -> String {
        let mut sources: Vec<(&str, usize)> = Vec::new();
        for problem in &self.problems {
            let source = match problem.at {
                At::Outside(source) => source,
                _ => self.name.as_str(),
            };
            match sources.iter_mut().find(|(known, _)| *known == source) {
                Some((_, count)) => *count += 1,
                None => sources.push((source, 1)),
            }
        }
        let all: Vec<String> = sources
            .into_iter()
            .map(|(source, count)| match count {
                1 => format!("1 error in {source}"),
                n => format!("{n} errors in {source}"),
            })
            .collect();
        all.join(", ")
    }

    /// The place in the text of the file, if that is where it is.
    fn span(&self, at: &At) -> Option<Span> {
        match at {
            At::Text(span) => Some(span.clone()),
            At::End => {
                let end = self.text.trim_end_matches(['\n', '\r']).len();
                Some(end..end)
            }
            At::File | At::Outside(_) => None,
        }
    }

    fn place(&self, at: &At) -> String {
        match (self.span(at), at) {
            (Some(span), _) => {
                let (line, column) = position(&self.text, span.start);
                format!("{}:{line}:{column}", self.name)
            }
            (None, At::Outside(source)) => (*source).into(),
            (None, _) => self.name.clone(),
        }
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let title = Level::ERROR.primary_title(problem.title.as_str());
        let mut group = match self.span(&problem.at) {
            Some(span) => {
                let mut snippet = Snippet::source(self.text.as_str())
                    .path(self.name.as_str())
                    .annotation(
                        AnnotationKind::Primary
                            .span(span)
                            .label(problem.label.as_str()),
                    );
                if let Some((span, label)) = &problem.also {
                    snippet = snippet
                        .annotation(AnnotationKind::Context.span(span.clone()).label(*label));
                }
                title.element(snippet)
            }
            None => {
                let group = title.element(Origin::path(self.place(&problem.at)));
                if problem.label.is_empty() {
                    group
                } else {
                    group.element(Level::NOTE.message(problem.label.as_str()))
                }
            }
        };
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Errors {}

/// Line and column (in characters), both from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..])
        .chars()
        .count()
        + 1;
    (line, column)
}
