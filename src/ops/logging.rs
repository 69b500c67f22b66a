//! Sets the log up once: human lines on a terminal, one JSON object a line otherwise, always on
//! standard error, so that what a command prints on standard output stays clean.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Level, LogFormat};

/// Changes the level of the running log.
pub struct LogControl {
    level: reload::Handle<LevelFilter, tracing_subscriber::Registry>,
}

impl LogControl {
    /// Sets the least severe level that is still written.
    pub fn set_level(&self, level: Level) {
        // Fails only when the subscriber is gone, and it lives as long as the process.
        let _ = self.level.modify(|filter| *filter = level_filter(level));
    }
}

fn level_filter(level: Level) -> LevelFilter {
    match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// Installs the process-wide log. A second call changes nothing and returns `None` (tests start
/// several servers in one process).
pub fn init(format: LogFormat, level: Level) -> Option<LogControl> {
    let json = match format {
        LogFormat::Auto => !stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let lines = if json {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_target(false)
            .with_writer(stderr)
            .boxed()
    } else {
        fmt::layer()
            .with_target(false)
            .with_ansi(stderr().is_terminal())
            .with_writer(stderr)
            .boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .ok()
        .map(|()| LogControl { level: handle })
}
