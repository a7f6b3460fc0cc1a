//! The table of all phases and inputs.

use super::*;

/// The next phase for each phase (row) and input (column), with the actions after a colon. `+` is a phase in which the
/// end of all processes was reported.
const TABLE: &str = "
             signal         time       stop       goodbye  closed             failed   nothing_left
serving      awaited:signal serving    connected  goodbye  lost:log,terminal  lost     serving
awaited      awaited:signal awaited    connected  goodbye  lost:log,terminal  lost     awaited
overdue      overdue:signal connected:log connected goodbye lost:log,terminal lost     overdue
connected    connected      connected  connected  goodbye  lost:log,terminal  lost     connected+:all_gone
connected+   connected+     connected+ connected  goodbye+ lost+:log,terminal lost+    connected+
goodbye      goodbye        goodbye    goodbye    goodbye  goodbye            goodbye  goodbye+:all_gone,end_keeping_group
goodbye+     goodbye+       goodbye+   goodbye    goodbye+ goodbye+           goodbye+ goodbye+:end_keeping_group
lost         lost           lost       lost       goodbye  lost:log,terminal  lost     lost+:all_gone,end
lost+        lost+          lost+      lost       goodbye+ lost+:log,terminal lost+    lost+:end
";

fn phases(now: Instant) -> Vec<(&'static str, GuardPhase)> {
    let stopping = |orch, all_gone_reported| GuardPhase::Stopping {
        orch,
        all_gone_reported,
    };
    vec![
        ("serving", GuardPhase::Serving),
        (
            "awaited",
            GuardPhase::StopAwaited {
                until: now + STOP_ORDER_TIMEOUT,
            },
        ),
        ("overdue", GuardPhase::StopAwaited { until: now }),
        ("connected", stopping(OrchPresence::Connected, false)),
        ("connected+", stopping(OrchPresence::Connected, true)),
        ("goodbye", stopping(OrchPresence::SaidGoodbye, false)),
        ("goodbye+", stopping(OrchPresence::SaidGoodbye, true)),
        ("lost", stopping(OrchPresence::Lost, false)),
        ("lost+", stopping(OrchPresence::Lost, true)),
    ]
}

fn input(name: &str) -> PhaseInput {
    match name {
        "signal" => PhaseInput::SignalledToEnd { signal: 15, sender: 7 },
        "time" => PhaseInput::TimePassed,
        "stop" => PhaseInput::StopOrdered,
        "goodbye" => PhaseInput::GoodbyeOrdered,
        "closed" => PhaseInput::SocketClosed,
        "failed" => PhaseInput::SocketFailed,
        "nothing_left" => PhaseInput::NothingLeft,
        _ => panic!("{name}"),
    }
}

fn action_name(action: &PhaseAction) -> &'static str {
    match action {
        PhaseAction::Log(_) => "log",
        PhaseAction::Report(GuardReport::AllGone) => "all_gone",
        PhaseAction::Report(_) => "signal",
        PhaseAction::ResetTerminal => "terminal",
        PhaseAction::End { removes_group: true } => "end",
        PhaseAction::End { removes_group: false } => "end_keeping_group",
    }
}

#[test]
fn every_phase_handles_every_input_as_the_table_says() {
    let now = Instant::now();
    let phases = phases(now);
    let mut lines = TABLE.trim_start().lines();
    let inputs: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(inputs.len(), 7);
    let rows: Vec<&str> = lines.collect();
    assert_eq!(rows.len(), phases.len());
    for row in rows {
        let mut cells = row.split_whitespace();
        let name = cells.next().unwrap();
        let (_, phase) = phases.iter().find(|(known, _)| *known == name).unwrap();
        for (input_name, expected) in inputs.iter().zip(cells.by_ref()) {
            let (next, actions) = phase.step(input(input_name), now);
            let (next, _) = phases.iter().find(|(_, known)| *known == next).unwrap();
            let actions: Vec<&str> = actions.iter().map(action_name).collect();
            let found = match actions.is_empty() {
                true => (*next).to_owned(),
                false => format!("{next}:{}", actions.join(",")),
            };
            assert_eq!(found, expected, "{name} {input_name}");
        }
        assert_eq!(cells.next(), None);
    }
}

#[test]
fn a_signal_is_reported_with_its_sender_and_only_the_first_one_starts_the_wait() {
    let now = Instant::now();
    let (phase, actions) = GuardPhase::Serving.step(PhaseInput::SignalledToEnd { signal: 2, sender: 9 }, now);
    let report = GuardReport::Signalled {
        signal: 2,
        sender: 9,
        asks_to_end: true,
    };
    assert_eq!(actions, [PhaseAction::Report(report)]);
    assert_eq!(phase.deadline(), Some(now + STOP_ORDER_TIMEOUT));
    let later = now + Duration::from_secs(1);
    let (phase, _) = phase.step(PhaseInput::SignalledToEnd { signal: 2, sender: 9 }, later);
    assert_eq!(phase.deadline(), Some(now + STOP_ORDER_TIMEOUT));
}
