//! How another command asks a running `orch run` to stop one of its sites: a line in a file of the run's directory, which
//! the run watches. The answer is the run's journal, which says how the site ended.
//!
//! A file, and not a socket or a key in Redis: the state directory is private, so who may write there may do all that orch
//! may; it needs no Redis that answers, no port and no thread; each line is appended by one write, so that nobody's request
//! is lost to another's; and a request that comes before the run hears is heard when it does. It reaches runs of the own
//! state directory only, which is meant: on another host one asks there.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::file_watch::FileWatch;
use crate::regular_file;
use crate::run::SiteName;
use crate::sites::{Asker, Stops};

/// Where the file cannot be watched, and to be sure where it can.
const POLL: Duration = Duration::from_millis(500);
const LOOK_ANYWAY: Duration = Duration::from_secs(5);
/// More than any number of people asks for. Bytes.
const LARGEST: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    site: SiteName,
    by: Asker,
}

/// This process.
pub fn me() -> Asker {
    let uid = Uid::current();
    let user = User::from_uid(uid).ok().flatten();
    Asker {
        pid: std::process::id().cast_signed(),
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
    }
}

/// Asks the run whose file this is.
///
/// # Errors
/// The file cannot be written.
pub fn ask(file: &Path, site: &SiteName, by: Asker) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Request { site: site.clone(), by })?;
    line.push(b'\n');
    let mut file = regular_file::open_own(OpenOptions::new().append(true), file)?;
    file.write_all(&line)
}

/// Hears requests for as long as it is polled; those that are there already first.
pub async fn hear(file: &Path, stops: &Stops) -> Infallible {
    // The run's journal is written beside it.
    let mut watch = FileWatch::of_closed_file(file)
        .inspect_err(|error| tracing::debug!(%error, "requests to stop a site are polled for"))
        .ok();
    loop {
        match regular_file::read(file, LARGEST) {
            Ok(text) => each_request(&text, |Request { site, by }| stops.ask(site, by)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, file = %file.display(), "requests to stop a site cannot be read"),
        }
        let Some(open) = &mut watch else {
            sleep(POLL).await;
            continue;
        };
        let failed = tokio::select! {
            changed = open.changed() => changed.is_err(),
            () = sleep(LOOK_ANYWAY) => false,
        };
        if failed {
            watch = None;
        }
    }
}

/// A last line without its end is still being written; what is no request is left out.
fn each_request(text: &[u8], mut each: impl FnMut(Request)) {
    let whole = text.split_inclusive(|byte| *byte == b'\n');
    for line in whole.filter(|line| line.ends_with(b"\n")) {
        match serde_json::from_slice(line) {
            Ok(request) => each(request),
            Err(error) => tracing::warn!(%error, "a request to stop a site cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_heard_before_and_while_it_listens_and_others_are_left_out() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("stop-requests.jsonl");
        let stops = Stops::default();
        let name = SiteName::from;
        ask(&file, &name("early"), me()).expect("written");
        let heard = async {
            assert_eq!(stops.asked_for(&name("early")).await, me());
            let mut append = OpenOptions::new().append(true).open(&file).expect("it is there");
            append.write_all(b"nonsense\n{\"site\":\"half\"").expect("written");
            append
                .write_all(b",\"by\":{\"pid\":1,\"user\":\"u\"}}\n")
                .expect("written");
            ask(&file, &name("late"), me()).expect("written");
            stops.asked_for(&name("late")).await;
            stops.asked_for(&name("half")).await;
            assert_eq!(stops.all().len(), 3);
        };
        tokio::select! {
            never = hear(&file, &stops) => match never {},
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
