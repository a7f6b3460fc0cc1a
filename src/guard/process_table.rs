//! What `/proc` says about processes: who is whose child, in which group and session, since when.
//!
//! That a process has ended is told apart from not being able to look: who cannot look must not believe that nothing is
//! left.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

/// One line of `/proc/<pid>/stat`, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The process group, by its leader's pid.
    pub group: i32,
    pub session: i32,
    /// Clock ticks since boot; with the pid it names a process for ever.
    pub start_time: u64,
    /// Ended, and not yet reaped.
    pub zombie: bool,
    /// By a signal or a tracer.
    pub stopped: bool,
    /// Page faults of the children that it has waited for: above what it was where it has waited for one since.
    pub reaped_faults: u64,
}

impl Process {
    /// Whether both are looks at one process.
    pub fn same_as(&self, other: &Self) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }
}

/// Field 22 of a stat line, as its digits. The name in parentheses may hold anything, so counting starts after the
/// last `)`. Allocates nothing: it also runs between fork and exec.
pub fn start_time_field(stat: &[u8]) -> Option<&[u8]> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    // After the name come fields 3, 4, ...; field 22 is the 20th of them.
    stat.get(name_end + 1..)?
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty())
        .nth(19)
}

fn parse(stat: &[u8]) -> Option<Process> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = text(stat.get(..open)?)?.trim().parse().ok()?;
    let rest = text(stat.get(close + 1..)?)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        stopped: matches!(*fields.first()?, "T" | "t"),
        reaped_faults: fields.get(8)?.parse::<u64>().ok()? + fields.get(10)?.parse::<u64>().ok()?,
    })
}

/// Makes sure that `/proc` shows processes, and by the pids that the kernel knows them by here.
///
/// # Errors
/// It does not; the text says why, and what to do.
pub fn check() -> io::Result<()> {
    let unusable = |why: String| io::Error::other(format!("{why}; mount it (mount -t proc proc /proc)"));
    let shown = match fs::read_link("/proc/self") {
        Ok(shown) => shown,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unusable("/proc is not mounted, or hidden".to_owned()));
        }
        Err(error) => return Err(io::Error::new(error.kind(), format!("read /proc/self: {error}"))),
    };
    let me = std::process::id();
    // Its pids would be other processes' here.
    if shown.to_str().and_then(|pid| pid.parse().ok()) != Some(me) {
        return Err(unusable(format!(
            "/proc is that of another pid namespace: this process is {} there and {me} here",
            shown.display()
        )));
    }
    match look_up(me.cast_signed())? {
        Some(_) => Ok(()),
        None => Err(unusable("/proc does not show this process itself".to_owned())),
    }
}

/// One process, if it exists and may be seen.
///
/// # Errors
/// It cannot be told, such as for want of a descriptor.
pub fn look_up(pid: i32) -> io::Result<Option<Process>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse(&stat)),
        // Ended before or while it was read; or another user's, where those are hidden.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
                || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("read /proc/{pid}/stat: {error}"))),
    }
}

/// Whether a process of this pid exists and has not ended; one that cannot be looked at counts as alive.
pub fn is_alive(pid: i32) -> bool {
    look_up(pid).map_or(true, |process| process.is_some_and(|process| !process.zombie))
}

/// Whether the process of this pid that started at this time lives; a time of 0 is not known and fits any. One that cannot
/// be looked at counts as alive.
pub fn is_the_same_alive(pid: i32, start_time: u64) -> bool {
    let same = |process: Process| !process.zombie && (start_time == 0 || process.start_time == start_time);
    look_up(pid).map_or(true, |process| process.is_some_and(same))
}

/// Start time of this process; 0 when it cannot be known.
pub fn own_start_time() -> u64 {
    let own = look_up(std::process::id().cast_signed());
    own.ok().flatten().map_or(0, |process| process.start_time)
}

/// A variable of a process's initial environment; `None` also when it may not be read.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// Whether it exists and may not be looked into: another user's, as a rule.
pub fn is_hidden(pid: i32) -> bool {
    // The kernel checks the right at the opening; a process that has ended is not found.
    fs::File::open(format!("/proc/{pid}/environ")).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The files that are its standard output and error, named without symbolic links; none also when they may not be seen.
pub fn outputs(pid: i32) -> Vec<PathBuf> {
    let link = |descriptor| fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok();
    [1, 2].into_iter().filter_map(link).collect()
}

/// The pids of all processes that can be seen, this one's among them.
///
/// # Errors
/// They cannot be listed: what is missing says nothing then.
pub fn pids() -> io::Result<BTreeSet<i32>> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("list /proc: {error}"));
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    if found.contains(&std::process::id().cast_signed()) {
        Ok(found)
    } else {
        Err(io::Error::other("/proc does not show this process: it is hidden"))
    }
}

/// All processes that can be seen, this one among them.
///
/// # Errors
/// They cannot be listed or looked at: what is missing says nothing then.
pub fn all() -> io::Result<Vec<Process>> {
    let pids = pids()?;
    let mut found = Vec::with_capacity(pids.len());
    for pid in pids {
        found.extend(look_up(pid)?);
    }
    Ok(found)
}

/// The children of this process, those that have ended and are not reaped included; `None` where the kernel does not
/// list them. One that is born meanwhile may be missing; one that is reaped meanwhile may hide another.
pub fn children() -> Option<Vec<i32>> {
    children_of(std::process::id().cast_signed())
}

fn children_of(pid: i32) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let listed = fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        found.extend(
            listed
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Some(found)
}

/// A process and all that is below it, looked up from above and not by a look at the whole machine; parents first. What
/// forks or ends meanwhile may be missing.
///
/// # Errors
/// They cannot be looked at.
pub fn tree(root: i32) -> io::Result<Vec<Process>> {
    let mut found: Vec<Process> = look_up(root)?.into_iter().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        for child in children_of(parent).unwrap_or_default() {
            found.extend(look_up(child)?.filter(|process| process.parent == parent));
        }
        next += 1;
    }
    Ok(found)
}

/// Every descendant of `root` with the child of `root` that it descends from, itself included; parents first.
///
/// # Errors
/// As [`all`].
pub fn descendants(root: i32) -> io::Result<Vec<(Process, i32)>> {
    let all = all()?;
    let known: HashSet<i32> = all.iter().map(|process| process.pid).collect();
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for mut process in all {
        // Its parent has ended while the others were looked at: by now it has another.
        if process.parent != 0
            && !known.contains(&process.parent)
            && let Some(now) = look_up(process.pid)?.filter(|now| now.same_as(&process))
        {
            process = now;
        }
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<(Process, i32)> = Vec::new();
    let mut pending: Vec<(i32, Option<i32>)> = vec![(root, None)];
    while let Some((parent, top)) = pending.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            let top = top.unwrap_or(child.pid);
            pending.push((child.pid, Some(top)));
            found.push((child, top));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces_do_not_confuse() {
        let line =
            b"42 (a) b (c) S 7 42 41 0 -1 4194304 1 5 0 6 1 2 3 4 20 0 1 0 987654 1000 20 18446744073709551615\n";
        assert_eq!(start_time_field(line), Some(&b"987654"[..]));
        let process = parse(line).unwrap();
        assert_eq!(
            process,
            Process {
                pid: 42,
                parent: 7,
                group: 42,
                session: 41,
                start_time: 987_654,
                zombie: false,
                stopped: false,
                reaped_faults: 11,
            }
        );
        assert_eq!(parse(b"1 (x"), None);
        assert_eq!(start_time_field(b""), None);
    }

    #[test]
    fn this_process_is_alive_and_its_parent_is_known() {
        let me = std::process::id().cast_signed();
        assert!(is_alive(me));
        check().unwrap();
        let process = look_up(me).unwrap().unwrap();
        assert_eq!(process.parent, nix::unistd::getppid().as_raw());
        assert!(all().unwrap().iter().any(|other| other.same_as(&process)));
        assert_eq!(look_up(i32::MAX).unwrap(), None);
    }
}
