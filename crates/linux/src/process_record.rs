//! The record that a process writes about itself between fork and exec, without allocation.
#![expect(unsafe_code, reason = "system calls that the libraries offer no safe form of")]

use std::io;
use std::os::fd::RawFd;

use nix::libc;

/// Longest label in bytes; the rest of a record's line of 512 bytes is for two numbers.
const LONGEST_LABEL: usize = 400;

/// Builds the end of a record's line from the label: any label gives a single line that fits.
pub(crate) fn record_label(label: &str) -> Vec<u8> {
    let mut text = format!(" {}", label.replace(char::is_control, "?"));
    let mut length = text.len().min(LONGEST_LABEL);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    text.truncate(length);
    text.push('\n');
    text.into_bytes()
}

/// Writes `<pid> <start time> <label>` on a separate line. The process itself writes the line: no other process knows
/// these values before this one can daemonise.
pub(crate) fn write_record(record: RawFd, label: &[u8]) -> io::Result<()> {
    let mut stat = [0_u8; 1024];
    // SAFETY: the path is a C string, `stat` is writable for its length, and the descriptor is closed below.
    let length = unsafe {
        let file = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file == -1 {
            // `/proc` is hidden. A record without a start time would endanger unrelated processes, so no record is
            // written.
            return Ok(());
        }
        let length = libc::read(file, stat.as_mut_ptr().cast(), stat.len());
        libc::close(file);
        length
    };
    let stat = stat.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
    let Some(start_time) = start_time_field(stat) else {
        return Ok(());
    };
    let mut line = [0_u8; 512];
    let mut used = 0;
    // SAFETY: getpid cannot fail and touches no memory.
    let pid = unsafe { libc::getpid() };
    let mut digits = [0_u8; 20];
    let pid = decimal(u64::try_from(pid).unwrap_or(0), &mut digits);
    // The leading line break keeps this line apart from an incomplete one that a full disk left.
    for part in [b"\n", pid, b" ", start_time, label] {
        if let Some(place) = line.get_mut(used..used + part.len()) {
            place.copy_from_slice(part);
            used += part.len();
        }
    }
    let mut rest = line.get(..used).unwrap_or_default();
    while !rest.is_empty() {
        // SAFETY: `rest` is readable for its length; the descriptor is open until the start is over.
        let written = unsafe { libc::write(record, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            // Only a part fit on the disk; the next write returns the reason.
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// Returns the digits of field 22 of a stat line. The name in parentheses may contain any character, so the fields are
/// counted after the last `)`. Allocates nothing, since the function runs between fork and exec.
fn start_time_field(stat: &[u8]) -> Option<&[u8]> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    // Fields 3, 4, ... follow the name; field 22 is the 20th of them.
    stat.get(name_end + 1..)?
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty())
        .nth(19)
}

/// Writes decimal digits without allocation.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        // A digit fits in a byte.
        if let Some(place) = digits.get_mut(at) {
            *place = b'0' + (number % 10) as u8;
        }
        number /= 10;
        if number == 0 || at == 0 {
            return digits.get(at..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_one_line_that_fits() {
        assert_eq!(record_label("web"), b" web\n");
        assert_eq!(record_label("a\nb"), b" a?b\n");
        let long = record_label(&"é".repeat(600));
        assert!(long.len() <= LONGEST_LABEL + 1 && long.ends_with("é\n".as_bytes()));
    }

    #[test]
    fn digits() {
        for number in [0, 7, 10, 4_194_304, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn the_start_time_is_found_after_a_name_with_parentheses_and_spaces() {
        let line = b"42 (a) b (c) S 7 42 41 0 -1 4194304 1 5 0 6 1 2 3 4 20 0 1 0 987654 1000 20\n";
        assert_eq!(start_time_field(line), Some(&b"987654"[..]));
        assert_eq!(start_time_field(b""), None);
    }
}
