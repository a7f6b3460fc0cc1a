//! The requesting side of the file of requests.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use nix::unistd::{Uid, User};

use super::request_line;
use super::request_reader::LARGEST;
use orch_base::files::regular;
use orch_journal::{RequestReceipt, RequestSender};

/// Returns the identity of this process.
pub(crate) fn this_process() -> RequestSender {
    let uid = Uid::current();
    let user = User::from_uid(uid).ok().flatten();
    RequestSender {
        pid: std::process::id().cast_signed(),
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
    }
}

/// Appends a request to the file with one write, so that requests of several commands do not mix.
///
/// # Errors
/// The file cannot be written, belongs to another user, or is full.
pub(crate) fn append_request(file: &Path, request: &RequestReceipt) -> io::Result<()> {
    let line = request_line::format(request)?;
    let mut file = regular::open_own(OpenOptions::new().append(true), file)?;
    if file.metadata()?.len().saturating_add(line.len() as u64) > LARGEST {
        let text = format!(
            "the file is full: the run reads at most {} MiB of requests",
            LARGEST >> 20
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    file.write_all(&line)
}
