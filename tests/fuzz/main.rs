//! Everything that orch reads and others write, changed at random from what is right: no panic, and of time and memory no
//! more than an input accounts for. `cargo test --features fuzzing --test fuzz`, with or without `--release`.
//!
//! Coverage guides nothing here; an input whose outcome is of a new kind is changed further. By coverage: `fuzz/`.
//!
//! Variables: `ORCH_FUZZ_SECONDS` for all targets together, or `ORCH_FUZZ_INPUTS`; `ORCH_FUZZ_SEED`, printed, does the same
//! again; `ORCH_FUZZ_TARGETS=journal,event` takes these alone; `ORCH_FUZZ_FILE` is read once instead of anything random.
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

/// Counts what is allocated.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Unless a variable says otherwise.
const SECONDS: u64 = 120;
/// One input, on a busy machine, without optimisation.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Longest input. Longer ones have tests of their own: `src/fuzzing.rs`, `tests/hostile_files.rs`.
const LONGEST: usize = 64 << 10;
/// Longest input that is changed further, unless what it was made of is longer: most inputs shall be quick.
const SHORT: usize = 4 << 10;
/// Inputs of a target that are changed further.
const KEPT: usize = 4_000;
/// After so many failures of a target nothing new is learned.
const FAILURES: usize = 5;

/// How long each target is tried before the next one's turn, where a number of inputs is to be reached.
const SLICE: Duration = Duration::from_secs(1);

/// How much is tried. Each target gets the same time: an input of one takes a thousand times as long as one of another.
#[derive(Clone, Copy)]
enum Share {
    Time(Duration),
    /// Of all targets together.
    Inputs(u64),
}

#[derive(Default)]
struct Done {
    inputs: u64,
    /// Not refused.
    read: u64,
    slowest: Duration,
    /// Bytes for each byte of an input, of inputs over a KiB.
    hungriest: usize,
    /// Bytes.
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
    let watch = Watch::begin(found(), READ_WITHIN * 12);
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
    println!("seed {seed} (ORCH_FUZZ_SEED={seed} does the same again)");
    let began = Instant::now();
    let mut trials: Vec<Trial> = targets.into_iter().map(|target| Trial::new(target, seed)).collect();
    loop {
        for trial in &mut trials {
            let time = if let Share::Time(time) = share { time } else { SLICE };
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

/// Where inputs are kept that show a fault.
fn found() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz")
}

/// A target, and how far it has been tried.
struct Trial {
    target: Target,
    random: Rng,
    /// So many inputs are right; they come first, unchanged.
    right: usize,
    longest_kept: usize,
    took: Duration,
    done: Done,
}

impl Trial {
    /// Each target has randomness of its own, so that it does the same with and without the others.
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

    /// Tries further inputs for so long, and all that are right.
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

    /// Too many kinds: the one that was kept has been changed a few times by then.
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

/// Reads one input; of which kind its outcome is.
fn once(target: &mut Target, input: &[u8], watch: &Watch, done: &mut Done) -> Result<u64, String> {
    done.inputs += 1;
    watch.reads(&target.name, input);
    MEMORY.reset_peak_usage();
    let (before, began) = (MEMORY.current_usage(), Instant::now());
    let read = catch_unwind(AssertUnwindSafe(|| (target.read)(input)));
    let (took, memory) = (began.elapsed(), MEMORY.peak_usage().saturating_sub(before));
    watch.has_read();
    let outcome = read.map_err(|panic| {
        let told = panic.downcast_ref::<String>().map(String::as_str);
        let told = told.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panic: {}", told.unwrap_or("without a text"))
    })?;
    done.read += u64::from(outcome.is_read);
    done.slowest = done.slowest.max(took);
    done.most = done.most.max(memory);
    if input.len() >= 1 << 10 {
        done.hungriest = done.hungriest.max(memory / input.len());
    }
    if took > READ_WITHIN {
        return Err(format!("{took:?} for {} bytes", input.len()));
    }
    if memory > target.growth * input.len() + target.beside {
        return Err(format!("{memory} bytes of memory for {}", input.len()));
    }
    Ok(outcome.kind)
}
