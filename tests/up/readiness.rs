//! Services that are not ready: another process has their port, or their output is held back.

use std::fs;

use nix::sys::signal::Signal;

use crate::project;
use crate::support::orch::wait_until;

/// Shows that the answer of another process on the port of a service proves nothing about the service, neither by tcp
/// nor by http.
#[test]
fn who_listened_on_the_port_before_the_start_is_named_and_makes_nothing_ready() {
    for probe in ["tcp = \"127.0.0.1:PORT\"", "http = \"http://localhost:PORT/\""] {
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stranger.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for connection in stranger.incoming() {
                let Ok(mut connection) = connection else { return };
                std::io::Write::write_all(&mut connection, b"HTTP/1.0 200 OK\r\n\r\n").ok();
            }
        });
        let probe = probe.replace("PORT", &port.to_string());
        let services = format!(
            "[services.web]\ncommand = [\"sleep\", \"60\"]\nstart_timeout = \"1s\"\nreadiness = {{ {probe} }}\n"
        );
        let project = project(&services);
        let ended = project.orch(&["up"]).finish();
        ended.expect_code(3);
        let pid = std::process::id();
        for part in [
            &*format!("{port} is held by"),
            &*format!("pid {pid} of user"),
            "listened there before this start",
            "give the service another port",
        ] {
            assert!(ended.stdout.contains(part), "{probe}: {part}\n{}", ended.stdout);
        }
    }
}

/// Shows that a service which waits until its port is free is ready once it has the port itself.
#[test]
fn a_service_is_ready_once_it_has_the_port_itself() {
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let waits = "import socket, time\nwhile True:\n try:\n  s = socket.create_server(('127.0.0.1', PORT))\n  break\n except \
                 OSError:\n  print('held', flush=True)\n  time.sleep(0.02)\nwhile True: s.accept()\n";
    let services = format!(
        "[services.web]\ncommand = [\"python3\", \"web.py\"]\nstart_timeout = \"60s\"\nreadiness = {{ tcp = \
         \"127.0.0.1:{port}\" }}\n"
    );
    let project = project(&services);
    fs::write(project.file("web.py"), waits.replace("PORT", &port.to_string())).unwrap();
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_spawned", "web");
    let log = orch.run_directory().unwrap().join("web.log");
    wait_until("it has found its port held", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("held"))
    });
    drop(stranger);
    orch.wait_for_service("service_ready", "web");
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// Shows that buffered output of Python is named: Python holds back its output to a file, so that a probe of the log
/// waits in vain and a crash leaves nothing. The caller of the tests may have set the variable; an empty one counts as
/// not set.
#[test]
fn pythons_buffered_output_is_named_where_the_log_is_empty() {
    let service = |environment: &str, script: &str| {
        format!(
            "[services.web]\nenv = {{ PYTHONUNBUFFERED = \"\" }}\ncommand = [\"sh\", \"-c\", \"{environment} python3 -c '{script}'; true\"]\nstart_timeout = \
             \"2s\"\nreadiness = {{ log = \"ready\" }}\n"
        )
    };
    let script = "import time; print(1); time.sleep(60)";
    let ended = project(&service("", script)).orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(ended.stdout.contains("PYTHONUNBUFFERED"), "{}", ended.stdout);
    let ended = project(&service("PYTHONUNBUFFERED=1", script)).orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(!ended.stdout.contains("PYTHONUNBUFFERED"), "{}", ended.stdout);

    let crash = "import os, time; print(1); time.sleep(0.3); os.kill(os.getpid(), 9)";
    for (option, is_buffered) in [("", true), ("\"-u\", ", false)] {
        let services = format!(
            "[services.web]\nenv = {{ PYTHONUNBUFFERED = \"\" }}\ncommand = [\"python3\", {option}\"-c\", \"{crash}\"]\nrestart = {{ limit = 1, backoff = \"1ms\" }}\n"
        );
        let ended = project(&services).orch(&["up"]).finish();
        ended.expect_code(3);
        let notices = ended.events_of("service_log_empty");
        let is_named = notices.iter().any(|event| event["service"] == "web");
        assert_eq!(is_named, is_buffered, "{notices:?}\n{}", ended.stdout);
    }
}
