//! Comparison of orch with other supervisors in one run: `cargo bench --bench peers`.
//!
//! Measures for each supervisor: living processes after `kill -9` of the supervisor and after its graceful stop (three
//! services with seven processes each); the time from exec to the first instruction of one service and of the last of
//! 20; the time from the death of a process to the first instruction of its replacement; the stop of 20 well-behaved
//! services; memory and CPU when idle. Supervisors that are not installed are listed and skipped (Debian packages:
//! supervisor, runit, s6). The bench ends processes that a supervisor leaves alive, by pid.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;
use std::time::Duration;

mod measure;
mod peer;
mod probe;

use measure::SupervisorFigures;
use peer::SupervisorKind;

/// Repetitions of each start and stop.
const RUNS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // The supervised program is this program too, so that the time of its first instruction is known to the
    // microsecond.
    if let [_, word, stamps, rest @ ..] = arguments.as_slice()
        && word == probe::ARGUMENT
    {
        probe::serve(Path::new(stamps), rest.iter().any(|word| word == probe::NOTIFIES));
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "medians of {RUNS} runs; milliseconds unless stated otherwise; {} processors, load before the first run {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        load.split(' ').next().unwrap_or_default()
    );
    for peer in SupervisorKind::ALL {
        println!("{}: {}", peer.name(), peer.set_up());
    }
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>8} {:>9} {:>9} {:>7} {:>8}",
        "",
        "left",
        "left",
        "left",
        "start",
        "start",
        "restart",
        "restart",
        "stop",
        "PSS",
        "anonymous",
        "CPU",
        "wake-ups"
    );
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>8} {:>9} {:>9} {:>7} {:>8}",
        "", "kill -9", "stop", "stubborn", "1", "20", "young", "up 1.5 s", "of 20", "MiB", "MiB", "%", "/ s"
    );
    for peer in SupervisorKind::ALL {
        match peer.version() {
            None => println!("{:<12} not installed", peer.name()),
            Some(version) => {
                let figures = SupervisorFigures::of(peer);
                println!("{:<12} {figures}  ({version})", peer.name());
            }
        }
    }
    println!("not measured: supervisors without a Debian package (circus, honcho, pm2, Horust, process-compose)");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
