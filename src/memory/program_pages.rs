//! Gives back the pages of the program's own files that only its start has needed.
//!
//! What has run once stays mapped, with its neighbours: most of what an idle supervisor would hold resident. The pages are
//! the kernel's cache of the program and its libraries; it keeps them, and maps again what is touched again, some
//! microseconds each. Not here: memory that the program has written to.

#![expect(unsafe_code, reason = "the libraries offer no safe form of madvise")]

use std::ffi::c_void;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use rustix::mm::{Advice, madvise};

/// So long after the last start it is done with what a start needs.
pub const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// For whom nothing happens any more for a while: what the next event needs comes back with it.
pub fn give_back() {
    // Where they cannot be told they stay: nothing depends on it.
    let Ok(mappings) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for Range { start, end } in unchanged_files(&mappings) {
        let address = std::ptr::without_provenance_mut::<c_void>(start);
        // SAFETY: a private mapping of a file that cannot be written through, of which this process has no page of its own:
        // what is dropped is read from the file when it is touched next, and says what it said. Nobody unmaps the program
        // and its libraries while it runs.
        if let Err(error) = unsafe { madvise(address, end - start, Advice::LinuxDontNeed) } {
            tracing::debug!(%error, "pages of the program's files cannot be given back");
        }
    }
}

/// The mappings in a `/proc/<pid>/smaps` that are private, cannot be written through, and show nothing but their file: a
/// relocated part has pages of its own.
fn unchanged_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    // Of the mapping whose fields are being read.
    let mut candidate: Option<Range<usize>> = None;
    for line in smaps.lines() {
        match line.split_once(':') {
            // A field of the mapping above; addresses have no colon before the device's.
            Some((name, value)) if !name.contains(' ') => {
                if name == "Anonymous"
                    && let Some(mapping) = candidate.take()
                    && value.trim() == "0 kB"
                {
                    found.push(mapping);
                }
            }
            _ => candidate = private_file(line),
        }
    }
    found
}

/// The addresses of a mapping's head line, `start-end permissions offset device inode path`, if it is such.
fn private_file(head: &str) -> Option<Range<usize>> {
    let mut fields = head.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let path = fields.nth(3)?;
    if !matches!(permissions, "r-xp" | "r--p") || !path.starts_with('/') {
        return None;
    }
    let address = |digits: &str| usize::from_str_radix(digits, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_holds_is_given_back() {
        let mapping =
            |head: &str, own: u32| format!("{head}\nSize: 8 kB\nRss: 4 kB\nAnonymous: {own} kB\nVmFlags: rd mr\n");
        let smaps = [
            mapping("1000-3000 r--p 00000000 fe:00 12    /usr/bin/a program: it", 0),
            mapping("3000-5000 r-xp 00002000 fe:00 12    /usr/bin/a program: it", 0),
            mapping("5000-6000 r--p 00004000 fe:00 12    /usr/bin/a program: it", 4),
            mapping("6000-7000 rw-p 00005000 fe:00 12    /usr/bin/a program: it", 0),
            mapping("7000-8000 r--s 00000000 fe:00 13    /run/shared", 0),
            mapping("8000-9000 r-xp 00000000 00:00 0     [vdso]", 0),
            mapping("9000-a000 r--p 00000000 00:00 0", 0),
        ];
        assert_eq!(unchanged_files(&smaps.concat()), [0x1000..0x3000, 0x3000..0x5000]);
        assert_eq!(unchanged_files("nonsense\n: \nAnonymous: 0 kB\n"), []);
    }

    #[test]
    fn the_program_goes_on_with_less() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = resident();
        give_back();
        let after = resident();
        assert!(after < before, "{before} KiB, then {after} KiB");
    }
}
