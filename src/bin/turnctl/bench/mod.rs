//! `turnctl bench`: load on any TURN server.
//!
//! Threads (`worker`) own clients and peers and make the measurements; this module tells them
//! when, and what to make of it (`search`, `report`). Clients and peers share one clock, so that
//! latency is one way.

mod clients;
mod closed;
mod heard;
mod options;
mod pace;
mod payload;
mod peers;
mod poll;
mod report;
mod search;
mod setup;
mod stream;
mod tally;
mod worker;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{Scope, scope};
use std::time::Duration;

pub(crate) use options::Options;
use options::{Mode, Plan};
use poll::now;
use report::{Measured, Report, grouped};
use search::Made;
use tally::Tally;
use worker::{Shared, Step, Worker};

use crate::say;

/// Runs what the command line asks for and prints the result.
pub(crate) fn run(options: Options) -> Result<ExitCode, Box<dyn Error>> {
    let plan = Plan::new(options)?;
    poll::raise_file_limit();
    let shared = Shared {
        plan: &plan,
        pattern: payload::Pattern::new(),
        start: now(),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let (setup, measured) = scope(|threads| match plan.mode {
        Mode::Binding | Mode::Allocate => requests(&shared, threads),
        Mode::Relay | Mode::Hold => load(&shared, threads),
    })?;
    let report = Report {
        plan: &plan,
        setup,
        measured,
    };
    let text = match plan.options.json {
        true => format!("{:#}", report.json()),
        false => report.text(),
    };
    say::result(text)?;
    Ok(match report.passes() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

type Done = Result<(Duration, Measured), String>;

fn requests<'s>(shared: &'s Shared<'s>, threads: &'s Scope<'s, '_>) -> Done {
    let (sender, results) = mpsc::channel();
    for index in 0..shared.plan.threads {
        let sender = sender.clone();
        threads.spawn(move || {
            poll::sleep_precisely();
            let done = match shared.plan.mode {
                Mode::Binding => closed::bindings(shared, index),
                _ => closed::cycles(shared, index),
            };
            // Nobody listens any more when another thread has failed.
            let _ = sender.send(done);
        });
    }
    let progress = Progress::new(shared);
    let mut all = closed::Requests::new();
    let title = shared.plan.mode.to_string();
    for _ in 0..shared.plan.threads {
        all.add(&progress.next(&results, &title)?);
    }
    progress.clear();
    Ok((Duration::ZERO, Measured::Requests(all)))
}

/// One thread, seen from here.
struct Handle {
    steps: Sender<Step>,
    results: Receiver<Result<Tally, String>>,
}

fn load<'s>(shared: &'s Shared<'s>, threads: &'s Scope<'s, '_>) -> Done {
    let plan = shared.plan;
    let start = now();
    let handles: Vec<_> = (0..plan.threads)
        .map(|index| spawn(shared, threads, index))
        .collect();
    let progress = Progress::new(shared);
    // The first result of each thread says that its allocations are made.
    gather(&handles, &progress, "allocating")?;
    let setup = now() - start;
    let measured = if plan.mode == Mode::Hold {
        say::aside(format_args!("{} allocations held\n", plan.clients));
        let step = Step {
            tag: 0,
            rate: 0.0,
            warm_up: Duration::ZERO,
            duration: plan.duration,
        };
        make(&handles, &progress, step, "holding")?;
        Measured::Held
    } else {
        measure(plan, &handles, &progress)?
    };
    progress.clear();
    Ok((setup, measured))
}

fn measure(plan: &Plan, handles: &[Handle], progress: &Progress<'_>) -> Result<Measured, String> {
    // Packets of an earlier run of this program may still be on their way.
    let mut tag = [0; 4];
    getrandom::fill(&mut tag).map_err(|error| format!("no random numbers: {error}"))?;
    let mut tag = u32::from_ne_bytes(tag);
    let mut at_rate = |rate: f64, duration: Duration| {
        tag = tag.wrapping_add(1);
        let step = Step {
            tag,
            rate: rate / plan.threads as f64,
            warm_up: plan.options.warm_up,
            duration,
        };
        let title = format!("{}/s", grouped(rate));
        let tally = make(handles, progress, step, &title)?;
        Ok(Made::new(rate, duration.as_secs_f64(), tally))
    };
    if !plan.options.search {
        return Ok(Measured::Rate(at_rate(plan.rate(), plan.duration)?));
    }
    let (from, to) = (plan.options.search_from, plan.options.search_to);
    let found = search::search(
        from as f64,
        to as f64,
        plan.options.max_loss,
        |rate, longer| at_rate(rate, plan.duration * if longer { 2 } else { 1 }),
    )?;
    Ok(Measured::Search(found))
}

fn spawn<'s>(shared: &'s Shared<'s>, threads: &'s Scope<'s, '_>, index: usize) -> Handle {
    let (steps, commands) = mpsc::channel::<Step>();
    let (sender, results) = mpsc::channel();
    threads.spawn(move || {
        poll::sleep_precisely();
        let mut worker = match Worker::open(shared, index) {
            Ok(worker) => worker,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        let prepared = worker.prepare();
        let _ = sender.send(prepared.map(|()| Tally::new()));
        // After an error there are no commands: what was made until then is released.
        for step in commands {
            let done = match shared.plan.mode {
                Mode::Hold => worker.hold(step.duration),
                _ => worker.step(step),
            };
            if sender.send(done).is_err() {
                break;
            }
        }
        worker.release();
    });
    Handle { steps, results }
}

fn make(
    handles: &[Handle],
    progress: &Progress<'_>,
    step: Step,
    title: &str,
) -> Result<Tally, String> {
    for handle in handles {
        // A thread that has ended has said why, which is found below.
        let _ = handle.steps.send(step);
    }
    gather(handles, progress, title)
}

fn gather(handles: &[Handle], progress: &Progress<'_>, title: &str) -> Result<Tally, String> {
    let mut all = Tally::new();
    for handle in handles {
        all.add(&progress.next(&handle.results, title)?);
    }
    Ok(all)
}

/// What happened since the line before, four of which are shown in a second.
fn progress(title: &str, sent: u64, received: u64) -> String {
    let per_second = |count: u64| grouped(count as f64 * 4.0);
    match (sent, received) {
        // Making allocations, or holding them.
        (0, 0) => format!("{title} ..."),
        // Requests: only those count that are answered.
        (0, answered) => format!("{title}: {}/s", per_second(answered)),
        _ => format!(
            "{title}: {}/s sent, {}/s received",
            per_second(sent),
            per_second(received)
        ),
    }
}

/// The line that shows how far it is, on a terminal.
struct Progress<'s> {
    shared: &'s Shared<'s>,
    shown: bool,
}

impl<'s> Progress<'s> {
    const EVERY: Duration = Duration::from_millis(250);

    fn new(shared: &'s Shared<'s>) -> Self {
        let shown = std::io::stderr().is_terminal() && !shared.plan.options.quiet;
        Self { shared, shown }
    }

    /// The next result, with the line kept up to date until it comes. An error stops everything.
    fn next<T>(&self, results: &Receiver<Result<T, String>>, title: &str) -> Result<T, String> {
        let (mut sent, mut received) = self.counts();
        loop {
            let error = match results.recv_timeout(Self::EVERY) {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(error)) => error,
                Err(RecvTimeoutError::Timeout) => {
                    let (all_sent, all_received) = self.counts();
                    let line = progress(title, all_sent - sent, all_received - received);
                    self.show(&line);
                    (sent, received) = (all_sent, all_received);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => "a thread ended".to_owned(),
            };
            self.shared.stop.store(true, Relaxed);
            self.clear();
            return Err(error);
        }
    }

    fn counts(&self) -> (u64, u64) {
        (
            self.shared.sent.load(Relaxed),
            self.shared.received.load(Relaxed),
        )
    }

    fn show(&self, line: &str) {
        if self.shown {
            say::aside(format_args!("\r\x1b[K{line}"));
        }
    }

    fn clear(&self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::progress;

    #[test]
    fn the_progress_line_says_what_there_is_to_say() {
        assert_eq!(progress("holding", 0, 0), "holding ...");
        assert_eq!(progress("binding", 0, 3000), "binding: 12,000/s");
        assert_eq!(
            progress("8,000/s", 2000, 1999),
            "8,000/s: 8,000/s sent, 7,996/s received"
        );
    }
}
