//! Lines of a worker's log before the failure of a task.

use std::path::Path;

use orch_base::files::log_stream;
use orch_base::text::printable::{one_line, shortened};
use orch_celery::TaskId;
use orch_journal::LogExcerpt;

/// Number of bytes at the end of the log that are searched.
const WINDOW: u64 = 256 << 10;
/// Number of lines that are kept.
const MAX_LINES: usize = 20;
/// Number of characters of a line that are kept.
const MAX_LINE: usize = 300;

/// Words of the lines in which a worker reports a failure (`celery/app/trace.py`, `celery/worker/request.py`).
const FAILURE_WORDS: [&str; 3] = [" raised ", " raised: ", " exceeded "];

/// Returns the lines of the log up to the line that reports the failure of the task, or else up to the last line that
/// names the task; `None` if no line names it. A worker writes the line about a failure before it sends the event.
pub(crate) fn before_failure(file: &Path, task: &TaskId) -> Option<LogExcerpt> {
    let (start, bytes) = log_stream::last_bytes(file, 0, WINDOW).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    if start > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let names_task = |line: &&str| line.contains(task.as_str());
    // The first of these lines: further ones are about the chord of the task, with a traceback of their own.
    let is_failure = |line: &&str| names_task(line) && FAILURE_WORDS.iter().any(|word| line.contains(word));
    let end = lines.iter().position(is_failure);
    let end = end.or_else(|| lines.iter().rposition(names_task))?;
    lines.truncate(end + 1);
    let lines = of_one_process(&lines);
    let shown = lines
        .iter()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(MAX_LINES);
    let mut lines: Vec<String> = shown
        .map(|line| shortened(&one_line(line.trim_end()), MAX_LINE))
        .collect();
    lines.reverse();
    (!lines.is_empty()).then(|| LogExcerpt {
        file: file.to_owned(),
        lines,
    })
}

/// Returns the lines that the process of the last line has written: the processes of a pool write to one log at the same
/// time. All lines, if the last line names no process.
fn of_one_process<'l>(lines: &[&'l str]) -> Vec<&'l str> {
    let Some(process) = lines.last().and_then(|line| process_of(line)) else {
        return lines.to_vec();
    };
    let mut writer = None;
    let mut own = Vec::new();
    for line in lines {
        // A line without a prefix continues the line before.
        writer = process_of(line).or(writer);
        if writer == Some(process) {
            own.push(*line);
        }
    }
    own
}

/// Returns the name of the process in Celery's usual format of a log line: `[2026-11-30 02:31:07,262: ERROR/ForkPoolWorker-2] `.
fn process_of(line: &str) -> Option<&str> {
    let (prefix, _) = line.strip_prefix('[')?.split_once("] ")?;
    let (_, process) = prefix.rsplit_once(": ")?.1.split_once('/')?;
    Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_up_to_the_failure_are_kept() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("celery.log");
        assert_eq!(before_failure(&file, &TaskId::from("t-1")), None);
        let early: String = (0..40).map(|number| format!("early {number}\n")).collect();
        let log = format!("{early}GET /p/7\n\nTask app.chunk[t-1] raised unexpected: \u{1b}[1mE\nTraceback\nlater\n");
        std::fs::write(&file, log).expect("written");
        let excerpt = before_failure(&file, &TaskId::from("t-1")).expect("lines");
        assert_eq!(excerpt.lines.len(), MAX_LINES);
        assert_eq!(
            excerpt.lines[MAX_LINES - 2..],
            ["GET /p/7", "Task app.chunk[t-1] raised unexpected: \u{fffd}[1mE"]
        );
        assert_eq!(before_failure(&file, &TaskId::from("t-2")), None);
    }

    #[test]
    fn lines_of_other_processes_are_left_out() {
        let lines = [
            "the end of a line",
            "[2026-11-30 02:31:07,001: WARNING/ForkPoolWorker-2] GET /p/7",
            "404 Not Found",
            "[2026-11-30 02:31:07,002: WARNING/ForkPoolWorker-1] GET /p/1",
            "200 OK",
            "[2026-11-30 02:31:07,003: ERROR/ForkPoolWorker-2] Task a[t] raised unexpected: E",
        ];
        assert_eq!(of_one_process(&lines), [lines[1], lines[2], lines[5]]);
        assert_eq!(
            of_one_process(&lines[..3]),
            [lines[0], lines[1], lines[2]],
            "the last line names no process"
        );
        assert_eq!(of_one_process(&[]), [""; 0]);
    }
}
