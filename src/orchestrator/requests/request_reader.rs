//! The reading side of the file of requests: reads each line once, in bounded memory, whatever the file contains.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::request_line::{self, RefusedLine};
use orch_base::files::regular;
use orch_journal::RequestReceipt;

/// Size limit of the file in bytes; a hundred thousand requests fit in.
pub(super) const LARGEST: u64 = 16 << 20;
/// Length limit of a line in bytes.
const MAX_LINE_LENGTH: usize = 4096;
/// Size of one read.
const CHUNK_SIZE: usize = 16 << 10;

/// Reader that has handled the file up to a position.
#[derive(Clone, Debug)]
pub(crate) struct RequestReader {
    file: PathBuf,
    /// Number of bytes that have been read.
    offset: u64,
    /// Start of a line without its end.
    partial: Vec<u8>,
    /// The start of the line is dropped, because the line is too long.
    is_overlong: bool,
}

/// Line of the file: a request, or the reason why it is none.
pub(crate) type RequestOrRefusal = Result<RequestReceipt, RefusedLine>;

impl RequestReader {
    /// Returns a reader at the start of the file, which may not exist yet.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            offset: 0,
            partial: Vec::new(),
            is_overlong: false,
        }
    }

    /// Returns the path of the file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Calls `each` for each line that has been completed since the last call. Skips empty lines; a line without a line
    /// break is still being written. A file that became shorter is read from its start.
    ///
    /// # Errors
    /// The file cannot be read, may have been written by another user, or is too large. A missing file is no error.
    pub fn read(&mut self, mut each: impl FnMut(RequestOrRefusal)) -> io::Result<()> {
        let mut file = match regular::open_private(OpenOptions::new().read(true), &self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let length = file.metadata()?.len();
        if length > LARGEST {
            let text = format!("it is larger than {} MiB", LARGEST >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if length < self.offset {
            *self = Self::new(std::mem::take(&mut self.file));
        }
        file.seek(SeekFrom::Start(self.offset))?;
        self.read_lines(&mut file, &mut each)
    }

    fn read_lines(&mut self, file: &mut File, each: &mut impl FnMut(RequestOrRefusal)) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_SIZE];
        // The file may grow while it is read.
        while self.offset < LARGEST {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            self.offset += count as u64;
            for piece in chunk
                .get(..count)
                .unwrap_or_default()
                .split_inclusive(|byte| *byte == b'\n')
            {
                self.add(piece, each);
            }
        }
        Ok(())
    }

    /// Adds a piece of a line, which ends with a line break or is not complete.
    fn add(&mut self, piece: &[u8], each: &mut impl FnMut(RequestOrRefusal)) {
        if self.partial.len() + piece.len() > MAX_LINE_LENGTH {
            self.is_overlong = true;
            self.partial.clear();
        }
        if !self.is_overlong {
            self.partial.extend_from_slice(piece);
        }
        if !piece.ends_with(b"\n") {
            return;
        }
        let line = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.is_overlong) {
            each(Err(RefusedLine {
                id: None,
                reason: format!("it is longer than {MAX_LINE_LENGTH} bytes"),
            }));
        } else if !line.trim_ascii().is_empty() {
            each(request_line::parse(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::super::{append_request, this_process};
    use super::*;
    use orch_journal::{RequestId, RequestVerb};

    struct RequestsFixture {
        directory: tempfile::TempDir,
        reader: RequestReader,
    }

    impl RequestsFixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let reader = RequestReader::new(directory.path().join("requests.jsonl"));
            Self { directory, reader }
        }

        fn request(&self, id: &str) {
            let request = RequestReceipt {
                id: id.into(),
                by: this_process(),
                verb: RequestVerb::Stop { service: "web".into() },
            };
            append_request(self.reader.file(), &request).unwrap();
        }

        fn write(&self, text: &[u8]) {
            let mut file = regular::open_own(OpenOptions::new().append(true), self.reader.file()).unwrap();
            file.write_all(text).unwrap();
        }

        /// Returns the ids of new requests, and `refused` for each line that is none.
        fn read(&mut self) -> Vec<String> {
            let mut found = Vec::new();
            let refused = |refused: RefusedLine| format!("refused: {}", refused.reason);
            let mut note = |line: RequestOrRefusal| {
                found.push(line.map_or_else(refused, |request| RequestId::to_string(&request.id)));
            };
            self.reader.read(&mut note).unwrap();
            found
        }
    }

    #[test]
    fn each_line_is_read_once_and_an_unfinished_one_waits() {
        let mut fixture = RequestsFixture::new();
        assert!(fixture.read().is_empty(), "the file does not exist");
        fixture.request("a");
        fixture.request("b");
        assert_eq!(fixture.read(), ["a", "b"]);
        assert!(fixture.read().is_empty());
        fixture.write(b"{\"v\":1,\"id\":\"c\",\"by\":{\"pid\":1,\"user\":\"u\"},\"ver");
        assert!(fixture.read().is_empty());
        fixture.write(b"b\":\"stop\",\"service\":\"web\"}\n");
        assert_eq!(fixture.read(), ["c"]);
        // A command was killed in the middle of its line; the next one is not affected.
        fixture.write(b"{\"v\":1,\"id\":");
        fixture.request("d");
        let found = fixture.read();
        assert!(found[0].starts_with("refused: it is no JSON object"), "{found:?}");
        assert_eq!(found[1..], ["d"]);
    }

    #[test]
    fn long_lines_and_large_files_take_no_memory_and_hide_no_later_request() {
        let mut fixture = RequestsFixture::new();
        let garbage = vec![b'x'; 3 << 20];
        fixture.write(&garbage);
        assert!(fixture.read().is_empty());
        assert!(fixture.reader.partial.capacity() <= 2 * MAX_LINE_LENGTH);
        fixture.request("a");
        assert_eq!(fixture.read(), ["refused: it is longer than 4096 bytes", "a"]);
        fixture.write(&vec![b'\n'; 1 << 20]);
        fixture.request("b");
        assert_eq!(fixture.read(), ["b"]);
        // A file that is larger than the limit is neither read nor extended.
        File::options()
            .write(true)
            .open(fixture.reader.file())
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let error = fixture.reader.read(|_| panic!("a line")).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 16 MiB");
        let request = RequestReceipt {
            id: "c".into(),
            by: this_process(),
            verb: RequestVerb::Stop { service: "web".into() },
        };
        let error = append_request(fixture.reader.file(), &request).unwrap_err();
        assert!(error.to_string().contains("the file is full"), "{error}");
        // A file that was replaced by a shorter one is read from its start.
        std::fs::remove_file(fixture.reader.file()).unwrap();
        fixture.request("d");
        assert_eq!(fixture.read(), ["d"]);
    }

    #[test]
    fn a_file_that_others_may_have_written_is_not_read() {
        let mut fixture = RequestsFixture::new();
        fixture.request("a");
        let path = fixture.reader.file().to_owned();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o620);
        let error = fixture.reader.read(|_| panic!("a line")).unwrap_err().to_string();
        assert!(error.contains("other users may write"), "{error}");
        mode(0o600);
        assert_eq!(fixture.read(), ["a"]);
        let link = fixture.directory.path().join("link.jsonl");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = RequestReader::new(link).read(|_| panic!("a line")).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&path, Some(nix::unistd::Uid::from_raw(65_534)), None).unwrap();
            let error = RequestReader::new(path).read(|_| panic!("a line")).unwrap_err();
            assert!(error.to_string().contains("belongs to user 65534"), "{error}");
        } else {
            crate::skip::skip("only root can make another user's files");
        }
    }
}
