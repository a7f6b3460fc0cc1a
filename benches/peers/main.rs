//! The life of a supervised process under orch and under its peers, in one run: `cargo bench --bench peers`.
//!
//! Measured for each: processes alive after `kill -9` of the supervisor and after its graceful stop (three services of
//! seven processes each); from exec to the first instruction of one service and of the last of 20; from the death of a
//! process to the first instruction of its replacement; the stop of 20 services that behave; memory and CPU when idle.
//! A peer that is not installed is named and left out (Debian: supervisor, runit, s6). What a peer leaves alive is ended
//! here by pid.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;
use std::time::Duration;

mod measure;
mod peer;
mod probe;

use measure::Figures;
use peer::Peer;

/// Repetitions of each start and stop.
const RUNS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // The supervised program is this one again: its first instruction is then known to the microsecond.
    if let [_, word, stamps] = arguments.as_slice()
        && word == probe::ARGUMENT
    {
        probe::serve(Path::new(stamps));
    }
    println!("medians of {RUNS} runs; milliseconds unless said otherwise");
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>8} {:>9} {:>7} {:>8}",
        "", "left", "left", "left", "start", "start", "restart", "restart", "stop", "RSS", "CPU", "wake-ups"
    );
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>8} {:>9} {:>7} {:>8}",
        "", "kill -9", "stop", "stubborn", "1", "20", "young", "up 1.5 s", "of 20", "MiB", "%", "/ s"
    );
    for peer in Peer::ALL {
        match peer.version() {
            None => println!("{:<12} not installed", peer.name()),
            Some(version) => {
                let figures = Figures::of(peer);
                println!("{:<12} {figures}  ({version})", peer.name());
            }
        }
    }
    println!("not measured here: what Debian does not package (circus, honcho, pm2, Horust, process-compose)");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
