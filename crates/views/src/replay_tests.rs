//! Views of recorded runs: `tests/fixtures/journals/*.jsonl`, each with a file of the expected texts.
//!
//! A text file has one section per view, under `=== NAME`; `=== terminal at 4.5s, 80x24` may be added freely, with `,
//! painted` for its colours and `, verbose` for `-v`. `ORCH_BLESS=1 cargo test --lib replay` writes the files again;
//! read their diff.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proptest::prelude::*;

use crate::paint::{PaintedLine, StyledLine};
use crate::plain::{PlainView, TimestampFormat};
use crate::{frame, json, summary};
use orch_journal::{Event, RunState, any_event, read_journal};

fn journals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/journals")
}

fn folded<'a>(events: impl IntoIterator<Item = &'a Event>) -> RunState {
    let mut state = RunState::default();
    for event in events {
        state.apply(event);
    }
    state
}

fn plain(events: &[Event], verbose: bool) -> Vec<String> {
    let (mut state, mut view) = (
        RunState::default(),
        PlainView::new(TimeZone::UTC, TimestampFormat::Time, verbose),
    );
    let mut lines = Vec::new();
    for event in events {
        state.apply(event);
        lines.extend(view.lines(event, &state));
    }
    whole(lines, false)
}

fn whole(lines: Vec<StyledLine>, color: bool) -> Vec<String> {
    lines.iter().map(|line| line.whole(color).to_string()).collect()
}

/// Renders the view with a name such as `terminal at 4.5s, 80x24, painted`.
fn terminal(moment: &str, events: &[Event]) -> Vec<String> {
    let mut parts = moment.split(", ");
    let now: f64 = parts
        .next()
        .and_then(|time| time.strip_suffix('s')?.parse().ok())
        .expect("a time such as 4.5s");
    let (width, height) = parts
        .next()
        .and_then(|size| size.split_once('x'))
        .expect("a size such as 80x24");
    let more: Vec<&str> = parts.collect();
    let (color, verbose) = (more.contains(&"painted"), more.contains(&"verbose"));
    let state = folded(events.iter().filter(|event| event.elapsed <= now));
    let number = |text: &str| text.parse().expect("a number of columns or rows");
    frame::render(&state, now, (number(width), number(height)), verbose, color)
        .into_iter()
        .map(|line| line.as_str().replace('\x1b', "\\e"))
        .collect()
}

fn view(name: &str, events: &[Event]) -> Vec<String> {
    match name {
        "plain" => plain(events, false),
        "plain, verbose" => plain(events, true),
        "summary" => whole(summary::lines(&folded(events), false), false),
        "summary, painted" => whole(summary::lines(&folded(events), false), true)
            .into_iter()
            .map(|line| line.replace('\x1b', "\\e"))
            .collect(),
        "summary, quiet" => whole(summary::lines(&folded(events), true), false),
        _ => terminal(name.strip_prefix("terminal at ").expect("a known view"), events),
    }
}

#[test]
fn recorded_runs_are_shown_as_expected() {
    let mut seen = 0;
    for entry in fs::read_dir(journals()).expect("the fixtures") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        seen += 1;
        let events = read_journal(&path).expect("a readable journal").events;
        let texts = path.with_extension("txt");
        let expected = fs::read_to_string(&texts).unwrap_or_else(|_| "=== plain\n=== summary\n".to_owned());
        let mut actual = String::new();
        for name in expected.lines().filter_map(|line| line.strip_prefix("=== ")) {
            writeln!(actual, "=== {name}").expect("a string takes all");
            for line in view(name, &events) {
                writeln!(actual, "{line}").expect("a string takes all");
            }
        }
        if std::env::var_os("ORCH_BLESS").is_some() {
            fs::write(&texts, actual).expect("the texts are written");
        } else {
            assert_eq!(expected, actual, "{}: see the top of this file", texts.display());
        }
    }
    assert_eq!(seen, 6, "all journals exist");
}

#[test]
fn a_torn_line_and_an_unknown_kind_are_reported() {
    let journal = |name: &str| read_journal(&journals().join(name)).expect("a readable journal");
    let interrupted = journal("interrupted.jsonl");
    assert!(interrupted.torn && interrupted.unknown == 0);
    let proxies = journal("too_few_proxies.jsonl");
    assert!(!proxies.torn && proxies.unknown == 1);
}

proptest! {
    #[test]
    fn any_events_can_be_shown(
        events in proptest::collection::vec(any_event(), 0..24),
        now in 0.0..1e9_f64,
        width in 0..140_usize,
        height in 0..40_usize,
    ) {
        // Nothing is drawn before the first event, so that one comes first.
        let start = read_journal(&journals().join("good_run.jsonl")).expect("a readable journal").events.swap_remove(0);
        let events: Vec<Event> = std::iter::once(start).chain(events).collect();
        let state = folded(&events);
        let lines = frame::render(&state, now, (width, height), true, false);
        prop_assert!(lines.len() <= height);
        for line in lines.iter().map(PaintedLine::as_str) {
            prop_assert!(crate::paint::columns(line) <= width, "{line:?} is wider than {width}");
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        let printed = plain(&events, true).into_iter().chain(whole(summary::lines(&state, false), false));
        for line in printed {
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        for event in &events {
            prop_assert!(!json::line(event).contains('\n'));
        }
    }
}
