//! Everything that orch reads and others write, changed at random from correct inputs: no panic, and no more time and
//! memory than the size of an input explains. `cargo test --features fuzzing --test fuzz`, with or without `--release`.
//!
//! No coverage guides the changes; an input whose outcome is of a new kind is changed further. Fuzzing by coverage is
//! in `fuzz/`.
//!
//! Variables: `ORCH_FUZZ_SECONDS` for all targets together, or `ORCH_FUZZ_INPUTS`; `ORCH_FUZZ_SEED`, which is printed,
//! repeats a run; `ORCH_FUZZ_TARGETS=journal,event` selects targets; `ORCH_FUZZ_FILE` is read once instead of random
//! inputs.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::HashSet;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peak_alloc::PeakAlloc;

mod corpus;
mod mutation;
mod targets;
mod watch;

use targets::Target;
use watch::Watch;

/// Allocator that counts the allocated memory.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Seconds unless a variable sets another number.
const SECONDS: u64 = 120;
/// Time for one input, on a busy machine, without optimisation.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest input. Tests of longer ones: `src/fuzzing.rs`, `tests/hostile_files.rs`.
const LONGEST: usize = 64 << 10;
/// Longest input that is changed further, unless its origin is longer: most inputs shall be quick.
const SHORT: usize = 4 << 10;
/// Inputs of a target that are changed further.
const KEPT: usize = 4_000;
/// Number of failures of a target after which it is given up: more would show nothing new.
const FAILURES: usize = 5;

/// Time for each target before the turn of the next one, when a number of inputs is to be reached.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);

/// Amount of fuzzing. Each target gets the same time: an input of one takes a thousand times as long as one of another.
#[derive(Clone, Copy)]
enum Share {
    Time(Duration),
    /// Inputs of all targets together.
    Inputs(u64),
}

#[derive(Default)]
struct Done {
    inputs: u64,
    /// Inputs that were not refused.
    read: u64,
    slowest: Duration,
    /// Bytes of memory for each byte of an input, among inputs over a KiB.
    hungriest: usize,
    /// Bytes of memory.
    most: usize,
    kinds: HashSet<u64>,
    failures: usize,
}

fn main() -> ExitCode {
    let seed = variable("ORCH_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let wanted = env::var("ORCH_FUZZ_TARGETS").ok();
    let is_wanted = |name: &str| {
        wanted
            .as_ref()
            .is_none_or(|wanted| wanted.split(',').any(|word| name.contains(word)))
    };
    let place = tempfile::tempdir().unwrap();
    let mut targets = targets::all(place.path());
    targets.retain(|target| is_wanted(&target.name));
    assert!(!targets.is_empty(), "ORCH_FUZZ_TARGETS names none of the targets");
    let share = match variable("ORCH_FUZZ_INPUTS") {
        Some(inputs) => Share::Inputs(inputs),
        None => {
            let seconds = variable("ORCH_FUZZ_SECONDS").unwrap_or(SECONDS);
            Share::Time(Duration::from_secs(seconds) / u32::try_from(targets.len()).unwrap())
        }
    };
    let watch = Watch::begin(found(), READ_TIMEOUT * 12);
    if let Some(file) = env::var_os("ORCH_FUZZ_FILE") {
        let input = fs::read(&file).unwrap();
        let problems = targets.iter_mut().filter_map(|target| {
            let outcome = once(target, &input, &watch, &mut Done::default());
            outcome.err().map(|problem| println!("{}: {problem}", target.name))
        });
        return if problems.count() == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    println!("seed {seed} (ORCH_FUZZ_SEED={seed} repeats this run)");
    let began = Instant::now();
    let mut trials: Vec<Trial> = targets.into_iter().map(|target| Trial::new(target, seed)).collect();
    loop {
        for trial in &mut trials {
            let time = if let Share::Time(time) = share {
                time
            } else {
                TURN_TIMEOUT
            };
            trial.go_on(time, &watch);
        }
        let inputs: u64 = trials.iter().map(|trial| trial.done.inputs).sum();
        let is_over = trials.iter().all(|trial| trial.done.failures >= FAILURES);
        match share {
            Share::Inputs(wanted) if inputs < wanted && !is_over => {}
            _ => break,
        }
    }
    trials.iter().for_each(Trial::report);
    let all: u64 = trials.iter().map(|trial| trial.done.inputs).sum();
    let failures: usize = trials.iter().map(|trial| trial.done.failures).sum();
    let took = began.elapsed().as_secs_f64();
    println!(
        "{all} inputs in {took:.0} s, {:.0} a second; {failures} failures",
        all as f64 / took
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")),
    )
}

/// Returns the directory for inputs that show a fault.
fn found() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz")
}

/// Target and its progress.
struct Trial {
    target: Target,
    random: Rng,
    /// Number of correct inputs, which come first and unchanged.
    right: usize,
    longest_kept: usize,
    took: Duration,
    done: Done,
}

impl Trial {
    /// Creates a trial with randomness of its own, so that a target does the same with and without the others.
    fn new(target: Target, seed: u64) -> Self {
        let seed = target
            .name
            .bytes()
            .fold(seed, |seed, byte| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        Self {
            random: Rng::with_seed(seed),
            right: target.corpus.len(),
            longest_kept: target.corpus.iter().map(Vec::len).max().unwrap_or(0).max(SHORT),
            took: Duration::ZERO,
            done: Done::default(),
            target,
        }
    }

    /// Tries further inputs for this time, and in any case all correct ones.
    fn go_on(&mut self, time: Duration, watch: &Watch) {
        let began = Instant::now();
        while self.done.failures < FAILURES && (began.elapsed() < time || self.done.inputs < self.right as u64) {
            let number = self.done.inputs;
            let input = match usize::try_from(number).ok().filter(|number| *number < self.right) {
                Some(number) => self.target.corpus[number].clone(),
                None => mutation::changed(&self.target.corpus, self.target.words, LONGEST, &mut self.random),
            };
            match once(&mut self.target, &input, watch, &mut self.done) {
                Ok(kind) => {
                    let is_changed = number >= self.right as u64;
                    if self.done.kinds.insert(kind) && is_changed && input.len() <= self.longest_kept {
                        self.keep(input);
                    }
                }
                Err(problem) => {
                    self.done.failures += 1;
                    let file = watch.keep(&self.target.name, &input);
                    println!("{}: input {number}, {}: {problem}", self.target.name, file.display());
                }
            }
        }
        self.took += began.elapsed();
    }

    /// Keeps an input for further changes; when there are too many, it replaces another, which has been changed a few
    /// times by then.
    fn keep(&mut self, input: Vec<u8>) {
        match self.target.corpus.len() < self.right + KEPT {
            true => self.target.corpus.push(input),
            false => self.target.corpus[self.right + self.random.usize(..KEPT)] = input,
        }
    }

    fn report(&self) {
        let done = &self.done;
        println!(
            "{:<24} {:>9} inputs, {:>7.0} a second, {:>3.0} % read, {:>5} kinds; at most {:>8.3?}, {:>8} bytes, {:>4} for each byte",
            self.target.name,
            done.inputs,
            done.inputs as f64 / self.took.as_secs_f64(),
            100.0 * done.read as f64 / done.inputs as f64,
            done.kinds.len(),
            done.slowest,
            done.most,
            done.hungriest
        );
        assert!(done.read > 0, "{}: nothing was read at all", self.target.name);
    }
}

/// Reads one input; returns the kind of its outcome.
fn once(target: &mut Target, input: &[u8], watch: &Watch, done: &mut Done) -> Result<u64, String> {
    done.inputs += 1;
    watch.reads(&target.name, input);
    MEMORY.reset_peak_usage();
    let (before, began) = (MEMORY.current_usage(), Instant::now());
    let read = catch_unwind(AssertUnwindSafe(|| (target.read)(input)));
    let (took, memory) = (began.elapsed(), MEMORY.peak_usage().saturating_sub(before));
    watch.has_read();
    let outcome = read.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panic: {}", text.unwrap_or("without a text"))
    })?;
    done.read += u64::from(outcome.is_read);
    done.slowest = done.slowest.max(took);
    done.most = done.most.max(memory);
    if input.len() >= 1 << 10 {
        done.hungriest = done.hungriest.max(memory / input.len());
    }
    if took > READ_TIMEOUT {
        return Err(format!("{took:?} for {} bytes", input.len()));
    }
    if memory > target.growth * input.len() + target.allowance {
        return Err(format!("{memory} bytes of memory for {}", input.len()));
    }
    Ok(outcome.kind)
}
