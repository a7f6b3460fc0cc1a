//! Tests of cuts and of reads by position, on a file system that removes blocks and on one that punches holes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::files::log_cut::{CutMethod, drop_head, live_size, move_head};

#[test]
fn keeps_the_end_and_neutralises_escapes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "one\n\n\x1b[31mtwo\u{202e}\nthree\n").unwrap();
    assert_eq!(last_lines(&path, 2), ["\u{fffd}[31mtwo\u{fffd}", "three"]);
    assert!(last_lines(&directory.path().join("absent"), 2).is_empty());
}

/// Directories on a file system that removes blocks and on one that punches holes, as far as this machine has them.
fn directories() -> Vec<tempfile::TempDir> {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok();
    [Some(tempfile::tempdir().unwrap()), in_memory]
        .into_iter()
        .flatten()
        .collect()
}

/// Starts a log in `directory`, with a writer as the guard opens it.
fn log_in(directory: &tempfile::TempDir) -> (PathBuf, File) {
    let log = directory.path().join("web.log");
    let writer = OpenOptions::new().append(true).create(true).open(&log).unwrap();
    (log, writer)
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers
        .map(|number| format!("line {number} of the service\n"))
        .collect()
}

fn text(log: &Path) -> String {
    String::from_utf8(bytes_from(log, 0, u64::MAX).unwrap()).unwrap()
}

#[test]
fn pieces_and_live_file_are_the_stream_and_positions_stay() {
    for directory in directories() {
        let (log, mut writer) = log_in(&directory);
        writer.write_all(lines(0..1000).as_bytes()).unwrap();
        let position = length(&log);
        writer.write_all(lines(1000..2000).as_bytes()).unwrap();
        let all = lines(0..2000);
        let cut = move_head(&log, 10_000, u64::MAX).unwrap().unwrap();
        assert!(cut.bytes > 5_000 && cut.bytes <= 10_000, "{cut:?}");
        let second = move_head(&log, 20_000, u64::MAX).unwrap().unwrap();
        assert_eq!(live_size(&log).unwrap(), all.len() as u64 - cut.bytes - second.bytes);
        assert_eq!(length(&log), all.len() as u64);
        assert_eq!(text(&log), all);
        let files: Vec<String> = [log_pieces::path(&log, 2), log_pieces::path(&log, 1), log.clone()]
            .iter()
            .map(|path| fs::read_to_string(path).unwrap().trim_start_matches('\0').to_owned())
            .collect();
        assert_eq!(files.concat(), all, "the files, one after the other");
        if cut.method == CutMethod::Punch {
            assert!(
                files
                    .iter()
                    .all(|file| file.starts_with("line ") && file.ends_with('\n'))
            );
        }
        // A read by position crosses the border of two files.
        let at = |position: u64| &all[position as usize..position as usize + 60];
        for position in [position, cut.bytes - 30, cut.bytes + second.bytes - 30] {
            assert_eq!(bytes_from(&log, position, 60).unwrap(), at(position).as_bytes());
        }
        assert_eq!(
            last_bytes(&log, 0, 60).unwrap(),
            (all.len() as u64 - 60, all[all.len() - 60..].into())
        );
        assert_eq!(
            last_bytes(&log, all.len() as u64 - 7, 60).unwrap().1,
            &all.as_bytes()[all.len() - 7..]
        );
        assert!(has(&log, 0));
        log_pieces::remove_oldest(&log).unwrap();
        assert!(!has(&log, 0) && has(&log, cut.bytes));
        assert_eq!(text(&log), all[cut.bytes as usize..]);
        log_pieces::remove_oldest(&log).unwrap();
        let third = drop_head(&log, 10_000).unwrap();
        assert_eq!(text(&log), all[(cut.bytes + second.bytes + third.bytes) as usize..]);
        writer.write_all(b"the end\n").unwrap();
        assert_eq!(last_lines(&log, 2), ["line 1999 of the service", "the end"]);
    }
}

#[test]
fn the_last_lines_are_found_in_the_newest_piece_after_a_cut() {
    for directory in directories() {
        let (log, mut writer) = log_in(&directory);
        writer.write_all(lines(0..4000).as_bytes()).unwrap();
        move_head(&log, u64::MAX, u64::MAX).unwrap();
        assert!(live_size(&log).unwrap() <= 4096);
        assert_eq!(last_lines(&log, 400).len(), 400);
    }
}

#[test]
fn a_writer_that_never_pauses_loses_no_line() {
    const LINES: u32 = 100_000;
    for directory in directories() {
        let (log, mut writer) = log_in(&directory);
        let thread = std::thread::spawn(move || {
            for number in 0..LINES {
                writeln!(writer, "{number:08}").unwrap();
            }
        });
        let mut cuts = 0;
        while !thread.is_finished() {
            if live_size(&log).unwrap() > 64 << 10 {
                cuts += u32::from(move_head(&log, 64 << 10, u64::MAX).unwrap().unwrap().bytes > 0);
            }
        }
        thread.join().unwrap();
        let all: String = (0..LINES).map(|number| format!("{number:08}\n")).collect();
        assert!(text(&log) == all, "{cuts} cuts in {}", directory.path().display());
        assert!(cuts > 2, "{cuts}");
    }
}

#[test]
fn a_copy_that_the_writer_outpaces_is_given_up_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (log, mut writer) = log_in(&directory);
    writer.write_all(&vec![b'x'; 4 << 20]).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            writer.write_all(b"y").unwrap();
        }
    });
    let mut outpaced = false;
    while !outpaced {
        let before = live_size(&log).unwrap();
        match move_head(&log, 3 << 20, 0).unwrap() {
            None => outpaced = live_size(&log).unwrap() >= before,
            // The writer did not run.
            Some(_) => OpenOptions::new()
                .append(true)
                .open(&log)
                .unwrap()
                .write_all(&vec![b'x'; 4 << 20])
                .unwrap(),
        }
    }
    drop(stop);
    thread.join().unwrap();
    assert!(!log_pieces::incomplete_path(&log).exists());
}

#[test]
fn a_log_that_cannot_be_changed_stays_as_it_is() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, mut writer) = log_in(&directory);
    assert_eq!(drop_head(&log, 10).unwrap().bytes, 0, "an empty log");
    writer.write_all(lines(0..1000).as_bytes()).unwrap();
    // The name of the piece is taken by a directory.
    fs::create_dir(log_pieces::incomplete_path(&log)).unwrap();
    move_head(&log, 8192, u64::MAX).unwrap_err();
    assert_eq!(text(&log), lines(0..1000));
    let link = other.path().join("web.log");
    std::os::unix::fs::symlink(&log, &link).unwrap();
    drop_head(&link, 8192).unwrap_err();
    assert_eq!(fs::read_to_string(&log).unwrap(), lines(0..1000));
    drop_head(&other.path().join("absent"), 1).unwrap_err();
    assert!(!other.path().join("absent").exists(), "no log is created");
}
