//! Cuts the head off the live file of a log while its writers append to the file.
//!
//! A writer has the file open for appending, so the file is neither renamed nor replaced. Three methods exist:
//!
//! - ext4 and XFS remove whole blocks at the head (`FALLOC_FL_COLLAPSE_RANGE`): the file begins with the next block, and
//!   the first line may be the end of a line that begins in the newest piece.
//! - tmpfs, btrfs and others free the blocks (`FALLOC_FL_PUNCH_HOLE`): the file keeps its length, and begins with a hole
//!   that reads as zero bytes and uses no disk space. The hole ends at the start of a line if a line ends nearby.
//! - Elsewhere the file is copied and truncated: lines that are written between the two are lost.
//!
//! The kernel excludes writers during each of the first two calls, so these methods lose nothing. A head becomes a piece
//! before it is cut off: if orch is killed between the two, the newest piece and the live file have the same head.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::log_origin::{LogOrigin, change_origin, with_origin};
use super::{log_pieces, regular, tail};

/// Method that a file system offers to cut off a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutMethod {
    /// Remove blocks.
    Collapse,
    /// Free blocks.
    Punch,
    /// Copy all, then empty the file: lines that are written between the two are lost.
    Truncate,
}

/// A head that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCut {
    /// Number of bytes of the head; 0 if there is no whole block to cut off.
    pub bytes: u64,
    pub method: CutMethod,
}

/// Number of bytes before a cut in which the end of a line is searched.
const LINE_WINDOW: u64 = 64 << 10;

/// Number of bytes that are copied between two looks at the growth of the log.
const COPIED_AT_ONCE: u64 = 1 << 20;

/// Offset beyond the end of every log, at which the methods are tried.
const FAR_OFFSET: u64 = 1 << 40;

/// Returns the number of bytes that the live file uses.
///
/// # Errors
/// There is no such file.
pub fn live_size(log: &Path) -> io::Result<u64> {
    let size = fs::metadata(log)?.len();
    Ok(with_origin(log, |origin| size.saturating_sub(origin.hole)))
}

/// Copies about this number of bytes at the head of the live file to a new piece, and cuts them off. Returns `None`
/// without a cut if the log grows by more than `max_growth` bytes during the copy.
///
/// # Errors
/// The log cannot be changed, or the disk is full; the log is as before.
pub fn move_head(log: &Path, bytes: u64, max_growth: u64) -> io::Result<Option<LogCut>> {
    let mut head = LogHead::open(log, bytes)?;
    if head.len() == 0 {
        return Ok(Some(head.cut(0)));
    }
    let part = log_pieces::incomplete_path(log);
    let copied = head.copy_to(&part, max_growth);
    let moved = copied.and_then(|piece| {
        let Some(mut piece) = piece else {
            return Ok(None);
        };
        change_origin(log, |origin| {
            log_pieces::push(log, &part)?;
            if head.method == CutMethod::Truncate {
                // The lines that were written since the copy.
                io::copy(&mut head.live, &mut piece)?;
                head.end = head.live.stream_position()?;
            }
            let cut = head.remove(origin).inspect_err(|_| drop(log_pieces::pop(log)))?;
            Ok(Some(cut))
        })
    });
    if !matches!(moved, Ok(Some(_))) {
        fs::remove_file(&part).ok();
    }
    moved
}

/// Cuts off about this number of bytes at the head of the live file.
///
/// # Errors
/// The log cannot be changed; the log is as before.
pub fn drop_head(log: &Path, bytes: u64) -> io::Result<LogCut> {
    let mut head = LogHead::open(log, bytes)?;
    match head.len() {
        0 => Ok(head.cut(0)),
        _ => change_origin(log, |origin| head.remove(origin)),
    }
}

/// Head of a live file that is to be cut off.
struct LogHead {
    live: File,
    /// Offset of the first byte that is not in the hole.
    begin: u64,
    /// Offset of the cut.
    end: u64,
    method: CutMethod,
}

impl LogHead {
    fn open(log: &Path, bytes: u64) -> io::Result<Self> {
        // A missing log is not created.
        fs::symlink_metadata(log)?;
        let mut live = regular::open_own(OpenOptions::new().read(true).write(true), log)?;
        let begin = with_origin(log, |origin| origin.hole);
        let (size, block) = (live.metadata()?.len(), live.metadata()?.blksize().max(1));
        let method = supported_method(&live, block);
        let wanted = begin.saturating_add(bytes).min(size);
        let end = match method {
            // A file cannot lose all of its blocks in this way.
            CutMethod::Collapse => wanted.min(size.saturating_sub(1)) / block * block,
            CutMethod::Punch => end_of_line_before(&mut live, begin, wanted)?,
            CutMethod::Truncate => size,
        };
        Ok(Self {
            live,
            begin,
            end: end.max(begin),
            method,
        })
    }

    fn len(&self) -> u64 {
        self.end - self.begin
    }

    fn cut(&self, bytes: u64) -> LogCut {
        LogCut {
            bytes,
            method: self.method,
        }
    }

    /// Copies the head to a new file; returns `None` if the log grows too much during the copy.
    fn copy_to(&mut self, path: &Path, max_growth: u64) -> io::Result<Option<File>> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.check_space()?;
        let mut piece = regular::open_own(OpenOptions::new().write(true).create_new(true), path)?;
        self.live.seek(SeekFrom::Start(self.begin))?;
        let (before, mut left) = (self.live.metadata()?.len(), self.len());
        while left > 0 {
            if self.live.metadata()?.len().saturating_sub(before) > max_growth {
                return Ok(None);
            }
            let copied = io::copy(&mut (&self.live).take(left.min(COPIED_AT_ONCE)), &mut piece)?;
            if copied == 0 {
                return Err(io::Error::other("another program has truncated the log"));
            }
            left -= copied;
        }
        Ok(Some(piece))
    }

    /// Refuses a copy that would leave little space for the writers of this disk.
    fn check_space(&self) -> io::Result<()> {
        let disk = fstatvfs(&self.live)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // A file system in memory without a limit has no blocks.
        if disk.f_blocks == 0 || free / 2 >= self.len() {
            return Ok(());
        }
        let free = format!("only {free} bytes of the disk are free");
        Err(io::Error::new(io::ErrorKind::StorageFull, free))
    }

    /// Cuts the head off.
    fn remove(&mut self, origin: &mut LogOrigin) -> io::Result<LogCut> {
        let bytes = self.len();
        if self.method == CutMethod::Collapse {
            match without_interruption(|| fallocate(&self.live, FallocateFlags::COLLAPSE_RANGE, 0, self.end)) {
                Ok(()) => origin.hole = 0,
                // The blocks are larger than they seem, such as clusters of ext4.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => self.method = CutMethod::Punch,
                Err(error) => return Err(error.into()),
            }
        }
        match self.method {
            CutMethod::Collapse => {}
            CutMethod::Punch => {
                punch(&self.live, 0, self.end)?;
                origin.hole = self.end;
            }
            CutMethod::Truncate => {
                self.live.set_len(0)?;
                origin.hole = 0;
            }
        }
        origin.start += bytes;
        Ok(self.cut(bytes))
    }
}

/// Returns the best method. Each is tried where the file has no data.
fn supported_method(live: &File, block: u64) -> CutMethod {
    let collapsed = without_interruption(|| fallocate(live, FallocateFlags::COLLAPSE_RANGE, FAR_OFFSET, block));
    match collapsed {
        // The file system knows the call, and has no such blocks.
        Err(Errno::INVAL) | Ok(()) => CutMethod::Collapse,
        Err(_) if punch(live, FAR_OFFSET, block).is_ok() => CutMethod::Punch,
        Err(_) => CutMethod::Truncate,
    }
}

fn punch(live: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(without_interruption(|| fallocate(live, flags, offset, bytes))?)
}

fn without_interruption<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Returns the offset after the last line break before `wanted`; `wanted` if there is none nearby.
fn end_of_line_before(live: &mut File, begin: u64, wanted: u64) -> io::Result<u64> {
    let start = begin.max(wanted.saturating_sub(LINE_WINDOW));
    let bytes = tail::bytes_from(live, start, wanted - start)?;
    let end = memchr::memrchr(b'\n', &bytes).map(|place| start + place as u64 + 1);
    Ok(end.unwrap_or(wanted))
}
