//! Safe access to files that anybody may have placed: opened without blocking and read up to a limit. A FIFO without a
//! writer, an endless device and a directory are errors; a huge file is not read into memory.
//!
//! Files under `/proc` are not read with this module.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};

/// Opens a file for reading.
///
/// # Errors
/// The file cannot be opened, or is not a regular file or a link to one.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), 0, path)
}

/// Opens a file with these options and additional flags of `open(2)`.
///
/// # Errors
/// The file cannot be opened or is not a regular file.
pub fn open_with(options: &mut OpenOptions, flags: i32, path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a FIFO waits for the other end; the flag has no effect on a regular file.
    let file = options.custom_flags(flags | O_NONBLOCK | O_NOCTTY).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Opens a file of the state directory for writing and creates a missing one. A symbolic or hard link is
/// refused because orch would write to another file through the link.
///
/// # Errors
/// The file cannot be opened, is a symbolic link or not a regular file, has a second hard link, or belongs to another
/// user.
pub fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    open_without_links(options.create(true).mode(0o600), path).map(|(file, _)| file)
}

/// Opens an existing file that only this user can have written. A symbolic or hard link is refused.
///
/// # Errors
/// The file cannot be opened, is a link or not a regular file, belongs to another user, or may be written by others.
pub fn open_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let (file, metadata) = open_without_links(options, path)?;
    match metadata.mode() & 0o022 {
        0 => Ok(file),
        _ => Err(io::Error::other("other users may write to it")),
    }
}

fn open_without_links(options: &mut OpenOptions, path: &Path) -> io::Result<(File, Metadata)> {
    let file = open_with(options, O_NOFOLLOW, path).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP) => io::Error::other("it is a symbolic link, and orch does not follow links here"),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if metadata.nlink() > 1 {
        let error = "it is a hard link: writing to it would change another file too";
        return Err(io::Error::other(error));
    }
    let me = nix::unistd::geteuid().as_raw();
    if metadata.uid() != me {
        return Err(io::Error::other(format!("it belongs to user {}", metadata.uid())));
    }
    Ok((file, metadata))
}

/// Reads a file of at most `largest` bytes.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is larger.
pub fn read(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut contents = Vec::new();
    // Counts the bytes that are read instead of trusting the file's size: the file may grow during the read.
    file.take(largest.saturating_add(1)).read_to_end(&mut contents)?;
    match contents.len() as u64 > largest {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {}", size(largest)),
        )),
        false => Ok(contents),
    }
}

/// Formats a size as `4 MiB`, or in bytes if the size is not a whole number of MiB.
fn size(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn irregular_files_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let started = Instant::now();
        for path in [&fifo, directory.path(), Path::new("/dev/zero"), Path::new("/dev/tty")] {
            assert!(read(path, 10).is_err(), "{}", path.display());
        }
        assert_eq!(read(&fifo, 10).unwrap_err().to_string(), "not a regular file");
        let to_append = open_with(OpenOptions::new().append(true).create(true), 0, &fifo);
        assert!(to_append.is_err(), "the FIFO has no reader");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read(&path, 9).unwrap_err().to_string(), "larger than 9 bytes");
        // A sparse file of 1 TiB that uses no disk space.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path, 1 << 20).unwrap_err().to_string(), "larger than 1 MiB");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open(&link).is_ok());
    }

    #[test]
    fn open_own_refuses_links_and_files_of_other_users() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("log"), directory.path().join("target"));
        let append = || open_own(OpenOptions::new().append(true), &path);
        drop(append().unwrap());
        drop(append().unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::write(&target, "precious").unwrap();
        for (is_hard, message) in [(true, "hard link"), (false, "symbolic link")] {
            std::fs::remove_file(&path).unwrap();
            match is_hard {
                true => std::fs::hard_link(&target, &path).unwrap(),
                false => std::os::unix::fs::symlink(&target, &path).unwrap(),
            }
            let error = append().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert!(open(&path).is_ok(), "reading is allowed");
        }
        if nix::unistd::geteuid().is_root() {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "").unwrap();
            nix::unistd::chown(&path, Some(nix::unistd::Uid::from_raw(65_534)), None).unwrap();
            let error = append().unwrap_err().to_string();
            assert!(error.contains("belongs to user 65534"), "{error}");
        } else {
            crate::skip::skip("only root can make another user's files");
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }
}
