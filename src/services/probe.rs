//! The configured probes: TCP, HTTP, a line in the log, a file, a command.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::earlier_listener::EarlierListeners;
use super::http_probe;
use super::launcher::Launcher;
use crate::config::Probe;
use crate::duration_text::shown;
use crate::file_watch::FileWatch;
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::regular_file;
use crate::run::ExitStatus;

/// Pauses between attempts of probes that no event announces: short at first, since most services are quick.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of fresh log that a log probe looks through at most.
const LOG_WINDOW: u64 = 4 * 1024 * 1024;

/// What a probe needs besides its own settings.
pub struct ProbeContext {
    /// For `exec` probes.
    pub launcher: Launcher,
    /// The service it asks about.
    pub service: String,
    pub directory: PathBuf,
    pub environment: Vec<(String, String)>,
    /// The service's log.
    pub log: PathBuf,
    /// Who listened before the last start.
    pub(super) earlier: EarlierListeners,
    /// Where an `exec` probe's own output goes.
    pub probe_log: PathBuf,
}

/// Runs `probe` once, within `patience`.
///
/// # Errors
/// It failed; the text says how.
pub async fn once(probe: &Probe, context: &ProbeContext, log_offset: u64, patience: Duration) -> Result<(), String> {
    let attempt = async {
        match probe {
            Probe::Tcp { host, port } => match TcpStream::connect((host.as_str(), *port)).await {
                Ok(_connection) => Ok(()),
                Err(error) => Err(format!("connect {host}:{port}: {error}")),
            },
            Probe::Http { url } => http_probe::probe(url).await,
            Probe::Log { contains } => match log_contains(&context.log, log_offset, contains) {
                true => Ok(()),
                false => Err(format!("`{contains}` does not stand in {}", context.log.display())),
            },
            Probe::File { path } => match path.exists() {
                true => Ok(()),
                false => Err(format!("{} does not exist", path.display())),
            },
            Probe::Exec { argv } => run(argv, context, patience).await,
        }
    };
    match tokio::time::timeout(patience, attempt).await {
        // The connection was accepted: by whom?
        Ok(result) => result.and_then(|()| context.earlier.check(probe)),
        Err(_elapsed) => Err(format!("no answer within {}", shown(patience))),
    }
}

/// Repeats `probe` until it passes or the deadline is over.
///
/// # Errors
/// The deadline is over; the text is the last attempt's.
pub async fn until_passed(
    probe: &Probe,
    context: &ProbeContext,
    log_offset: u64,
    deadline: Instant,
) -> Result<(), String> {
    let mut watch = match probe {
        Probe::Log { .. } => FileWatch::new(&context.log).ok(),
        Probe::File { path } => FileWatch::new(path).ok(),
        Probe::Tcp { .. } | Probe::Http { .. } | Probe::Exec { .. } => None,
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.clamp(Duration::from_millis(50), Duration::from_secs(5));
        let error = match once(probe, context, log_offset, patience).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        let wait = async {
            match &mut watch {
                // A watch that breaks is replaced by polling.
                Some(watch) => match watch.changed().await {
                    Ok(()) => {}
                    Err(_broken) => tokio::time::sleep(LONGEST_PAUSE).await,
                },
                None => tokio::time::sleep(pause).await,
            }
        };
        let over = tokio::time::sleep_until(deadline.into());
        tokio::select! { () = wait => {} () = over => {} }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn log_contains(log: &Path, offset: u64, needle: &str) -> bool {
    let Ok(mut file) = regular_file::open(log) else {
        return false;
    };
    let mut fresh = Vec::new();
    file.seek(SeekFrom::Start(offset)).is_ok()
        && file.take(LOG_WINDOW).read_to_end(&mut fresh).is_ok()
        && String::from_utf8_lossy(&fresh).contains(needle)
}

async fn run(argv: &[String], context: &ProbeContext, patience: Duration) -> Result<(), String> {
    // Each run has a name of its own: the guard knows processes by their names.
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let order = SpawnOrder {
        service: format!("{}:probe:{number}", context.service),
        argv: argv.to_vec(),
        environment: context.environment.clone(),
        directory: context.directory.clone(),
        log: context.probe_log.clone(),
        stop: StopPlan {
            rank: u32::MAX,
            steps: vec![StopStep {
                signal: nix::libc::SIGKILL,
                grace: Duration::from_millis(100),
            }],
        },
    };
    match context.launcher.run_to_end(order, patience).await? {
        ExitStatus::Code(0) => Ok(()),
        status => Err(format!("`{}` {}", argv.join(" "), crate::run::describe_exit(status))),
    }
}
