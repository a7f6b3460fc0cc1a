//! Requests of another command to stop one site of an active `orch run`: lines in a file of the run's directory, which
//! the run watches. The answer is in the run's journal, which records how the site ended.
//!
//! A file has advantages over a socket or a key in Redis: the state directory is private, so a user with write
//! permission there may do all that orch may do; the file needs no answering Redis, no port and no thread; each line is
//! appended by one write, so that concurrent requests are not lost; and a request that comes before the run watches the
//! file is handled later. The file reaches only the run of its own state directory, by intention: on another host the
//! command must run there.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use orch_base::files::regular;
use orch_base::files::watch::FileWatch;
use orch_journal::SiteName;
use orch_scrape::jobs::{StopRequester, StopRequests};

/// Time between two reads of a file that cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum time between two reads of a watched file, in case the watch misses a change.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Size limit of the file in bytes, far more than people write requests.
const LARGEST: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct StopRequest {
    site: SiteName,
    by: StopRequester,
}

/// Returns the identity of this process.
pub fn this_process() -> StopRequester {
    let uid = Uid::current();
    let user = User::from_uid(uid).ok().flatten();
    StopRequester {
        pid: std::process::id().cast_signed(),
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
    }
}

/// Appends a request to the file.
///
/// # Errors
/// The file cannot be written.
pub fn append_request(file: &Path, site: &SiteName, by: StopRequester) -> io::Result<()> {
    let mut line = serde_json::to_vec(&StopRequest { site: site.clone(), by })?;
    line.push(b'\n');
    let mut file = regular::open_own(OpenOptions::new().append(true), file)?;
    file.write_all(&line)
}

/// Passes requests to `stops` for as long as the future is polled. Existing requests come first.
pub async fn watch_requests(file: &Path, stops: &StopRequests) -> Infallible {
    // The watch ignores writes to files that stay open, such as the run's journal in the same directory.
    let mut watch = FileWatch::of_closed_file(file)
        .inspect_err(|error| tracing::debug!(%error, "could not watch the file of stop requests; orch polls it"))
        .ok();
    loop {
        match regular::read(file, LARGEST) {
            Ok(text) => each_request(&text, |StopRequest { site, by }| stops.add(site, by)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, file = %file.display(), "could not read the stop requests of sites"),
        }
        let Some(open) = &mut watch else {
            sleep(POLL_INTERVAL).await;
            continue;
        };
        let failed = tokio::select! {
            changed = open.changed() => changed.is_err(),
            () = sleep(RECHECK_INTERVAL) => false,
        };
        if failed {
            watch = None;
        }
    }
}

/// Calls `each` for each request in the text. Ignores a last line without a line break, which is still being written,
/// and skips lines that are no requests.
fn each_request(text: &[u8], mut each: impl FnMut(StopRequest)) {
    let whole = text.split_inclusive(|byte| *byte == b'\n');
    for line in whole.filter(|line| line.ends_with(b"\n")) {
        match serde_json::from_slice(line) {
            Ok(request) => each(request),
            Err(error) => tracing::warn!(%error, "could not read a stop request of a site"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_and_later_requests_are_handled_and_other_lines_are_skipped() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("stop-requests.jsonl");
        let stops = StopRequests::default();
        let name = SiteName::from;
        append_request(&file, &name("early"), this_process()).expect("written");
        let heard = async {
            assert_eq!(stops.wait_for(&name("early")).await, this_process());
            let mut append = OpenOptions::new().append(true).open(&file).expect("it is there");
            append.write_all(b"nonsense\n{\"site\":\"half\"").expect("written");
            append
                .write_all(b",\"by\":{\"pid\":1,\"user\":\"u\"}}\n")
                .expect("written");
            append_request(&file, &name("late"), this_process()).expect("written");
            stops.wait_for(&name("late")).await;
            stops.wait_for(&name("half")).await;
            assert_eq!(stops.all().len(), 3);
        };
        tokio::select! {
            never = watch_requests(&file, &stops) => match never {},
            heard = tokio::time::timeout(Duration::from_secs(20), heard) => heard.expect("all are heard"),
        }
    }

    #[test]
    fn a_line_that_is_being_written_waits() {
        let mut heard = Vec::new();
        let text =
            b"{\"site\":\"a\",\"by\":{\"pid\":1,\"user\":\"u\"}}\n{\"site\":\"b\",\"by\":{\"pid\":1,\"user\":\"u\"}}";
        each_request(text, |request| heard.push(request.site.to_string()));
        assert_eq!(heard, ["a"]);
    }
}
