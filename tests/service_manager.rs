//! Messages to a service manager: a socket of the test stands for systemd.

mod support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::orch::Project;

/// Time in which a message must come.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);

const SERVICES: &str = r#"
[redis]
mode = "off"

[services.web]
kind = "daemon"
command = ["sh", "-c", "echo socket=${NOTIFY_SOCKET-none} watchdog=${WATCHDOG_USEC-none}; exec sleep 600"]
readiness = { log = "socket=none watchdog=none" }
"#;

/// Reads messages until one has this line; returns all lines so far.
fn until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let deadline = Instant::now() + MESSAGE_TIMEOUT;
    let mut lines = Vec::new();
    let mut message = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no line `{wanted}`, only {lines:#?}");
        socket.set_read_timeout(Some(left)).expect("a socket");
        let Ok(length) = socket.recv(&mut message) else {
            continue;
        };
        lines.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
        if lines.iter().any(|line| line == wanted) {
            return lines;
        }
    }
}

#[test]
fn a_service_manager_learns_of_readiness_status_life_and_stop() {
    let project = Project::new(SERVICES);
    let path = project.file("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("a socket in the project");
    let variables = [
        ("NOTIFY_SOCKET", path.to_str().expect("a text")),
        ("WATCHDOG_USEC", "400000"),
    ];
    let orch = project.orch_with(&["up"], &variables, Duration::from_secs(10));
    // The service is only ready if it has inherited none of the variables.
    let lines = until(&socket, "READY=1");
    let told: Vec<&String> = lines.iter().filter(|line| line.starts_with("STATUS=")).collect();
    assert_eq!(
        told.last().map(|line| line.as_str()),
        Some("STATUS=1 of 1 services ready"),
        "{lines:#?}"
    );
    until(&socket, "WATCHDOG=1");
    orch.signal(Signal::SIGTERM);
    let lines = until(&socket, "STOPPING=1");
    let extends = |line: &String| {
        line.strip_prefix("EXTEND_TIMEOUT_USEC=")
            .is_some_and(|text| text.parse::<u64>().is_ok())
    };
    assert!(lines.iter().any(extends), "{lines:#?}");
    until(&socket, "STATUS=ended with exit code 143");
    orch.finish().expect_code(143);
}
