//! Counting by callgrind, one process for each operation, so that none changes what another finds.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The argument by which this program, inside callgrind, is told what to do.
pub(crate) const DO: &str = "--do";

/// An operation is done so often before it counts, so that tables and caches are as in a server
/// that runs.
const BEFORE: usize = 16;

/// It counts so often: what is left of the loop around it is an instruction or two.
const TIMES: u64 = 128;

/// Does an operation; only what is inside of [`counted`] is counted.
pub(crate) fn perform(operation: &mut dyn FnMut()) {
    for _ in 0..BEFORE {
        operation();
    }
    counted(operation);
}

/// callgrind finds it by its name.
#[inline(never)]
fn counted(operation: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        operation();
    }
}

/// Where callgrind leaves what it found, for `callgrind_annotate`.
pub(crate) fn directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    Ok(program.with_file_name("callgrind"))
}

/// The instructions of one operation.
pub(crate) fn count(name: &str) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = directory()?;
    let file = directory.join(name.replace('/', "-"));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*callgrind::counted*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args([DO, name])
        .output();
    let run =
        run.map_err(|error| format!("valgrind: {error} (Debian: apt-get install valgrind)"))?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        return Err(format!("valgrind failed at {name}:\n{said}"));
    }
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse::<u64>().ok());
    match total {
        // Nothing at all means that the function was not found.
        Some(total) if total >= TIMES => Ok(total.div_ceil(TIMES)),
        _ => Err(format!("callgrind counted nothing for {name}")),
    }
}
