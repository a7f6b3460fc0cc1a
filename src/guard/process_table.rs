//! What `/proc` says about processes: who is whose child, in which session, since when.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// One line of `/proc/<pid>/stat`, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    pub session: i32,
    /// Clock ticks since boot; with the pid it names a process for ever.
    pub start_time: u64,
    /// Ended, and not yet reaped.
    pub zombie: bool,
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
    })
}

/// One process, if it exists.
pub fn look_up(pid: i32) -> Option<Process> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether a process of this pid exists and has not ended.
pub fn is_alive(pid: i32) -> bool {
    look_up(pid).is_some_and(|process| !process.zombie)
}

/// Whether the process of this pid that started at this time lives; a time of 0 is not known and fits any.
pub fn is_the_same_alive(pid: i32, start_time: u64) -> bool {
    look_up(pid).is_some_and(|process| !process.zombie && (start_time == 0 || process.start_time == start_time))
}

/// Start time of this process; 0 when it cannot be known.
pub fn own_start_time() -> u64 {
    look_up(std::process::id().cast_signed()).map_or(0, |process| process.start_time)
}

/// A variable of a process's initial environment; `None` also when it may not be read.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// Whether its standard output or error is a file below this directory (named without symbolic links); false also when
/// that may not be seen.
pub fn writes_below(pid: i32, directory: &Path) -> bool {
    [1, 2].into_iter().any(|descriptor| {
        fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).is_ok_and(|file| file.starts_with(directory))
    })
}

/// All processes that can be seen.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(look_up)
        .collect()
}

/// Whether this process has children; `None` where the kernel does not list them.
pub fn has_children() -> Option<bool> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    for thread in threads {
        let listed = fs::read(thread.ok()?.path().join("children")).ok()?;
        if !listed.trim_ascii().is_empty() {
            return Some(true);
        }
    }
    Some(false)
}

/// Every descendant of `root` with the child of `root` that it descends from, itself included; parents first.
pub fn descendants(root: i32) -> Vec<(Process, i32)> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all() {
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
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces_do_not_confuse() {
        let line =
            b"42 (a) b (c) S 7 42 41 0 -1 4194304 1 0 0 0 1 2 3 4 20 0 1 0 987654 1000 20 18446744073709551615\n";
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
                zombie: false
            }
        );
        assert_eq!(parse(b"1 (x"), None);
        assert_eq!(start_time_field(b""), None);
    }

    #[test]
    fn this_process_is_alive_and_its_parent_is_known() {
        let me = std::process::id().cast_signed();
        assert!(is_alive(me));
        assert_eq!(look_up(me).unwrap().parent, nix::unistd::getppid().as_raw());
    }
}
