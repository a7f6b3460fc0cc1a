//! An external Redis by its URL: orch and its worker meet there for every form of the URL; a Redis that does not answer
//! is waited for.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

mod support;
use support::bookshop;
use support::orch::{Ended, Project};
use support::process::Process;
use support::redis::{RedisServer, free_port};

const PASSWORD: &str = "ext3rnal/p@ss";
const ENCODED: &str = "ext3rnal%2Fp%40ss";

/// Creates a project with the site `short` of five chunks, and with the Redis of these lines.
fn project(redis: &str) -> Project {
    let project = bookshop::project_with(
        "own_settings",
        &format!(
            "[redis]\n{redis}\n[celery]\napp = \"own_settings\"\nconcurrency = 2\n\
             [sites.short]\ntimeout = \"60s\"\ndispatch = {{ task = \"own.dispatch\", args = [\"{{site}}\", 5, 0.0] }}\n"
        ),
    );
    fs::write(project.file("settings.json"), "{}").unwrap();
    project
}

#[track_caller]
fn expect_complete(ended: &Ended) {
    ended.expect_code(0);
    let end = ended.events_of("site_finished")[0].clone();
    assert_eq!(end["status"], "complete", "{end}");
    assert_eq!(end["counts"]["completed_chunks"], 5, "{end}");
}

/// Returns the whole output.
fn shown(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

/// Opens a plain connection to a server with the password.
fn connection(redis: &RedisServer, database: u32) -> redis::Connection {
    let client = redis::Client::open(format!("redis://:{ENCODED}@127.0.0.1:{}/{database}", redis.port)).unwrap();
    client.get_connection().unwrap()
}

/// Counts the keys of a database.
fn keys(redis: &RedisServer, database: u32) -> u64 {
    redis::cmd("DBSIZE").query(&mut connection(redis, database)).unwrap()
}

/// Asserts that no file of the project has the password, but for the private files that exist for it.
#[track_caller]
fn expect_no_password(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            expect_no_password(&path);
        } else if kind.is_file() && !["orch.toml", "instance.json"].iter().any(|name| path.ends_with(name)) {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(
                !text.contains(PASSWORD) && !text.contains(ENCODED),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn a_run_works_by_every_form_of_a_url() {
    let redis = RedisServer::start_with(Some(PASSWORD));
    let (port, nobody) = (redis.port, free_port());
    let socket = redis.socket_url(0).replace("redis+socket://", "");
    let socket = socket.split('?').next().unwrap();
    for (number, (url, result_url)) in [
        (format!("redis://:{ENCODED}@127.0.0.1:{port}/1"), None),
        (
            format!("redis://localhost:{port}/9?db=2&password={ENCODED}"),
            Some(format!(
                "redis://127.0.0.1:{port}?db=12&password={ENCODED}&socket_timeout=30"
            )),
        ),
        (
            format!("redis+socket://:{ENCODED}@{socket}?virtual_host=3"),
            Some(format!("unix://default:{ENCODED}@{socket}?db=13")),
        ),
        (format!("unix://:{ENCODED}@{socket}?db=4"), None),
        (
            format!("redis://127.0.0.1:{nobody}/5;redis://:{ENCODED}@127.0.0.1:{port}/5"),
            Some(format!("redis://:{ENCODED}@127.0.0.1:{port}/15")),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let result_line = result_url
            .as_ref()
            .map_or_else(String::new, |url| format!("result_url = \"{url}\"\n"));
        let project = project(&format!("mode = \"external\"\nurl = \"{url}\"\n{result_line}"));
        let mut orch = project.orch(&["run"]);
        let reused = orch.wait_for_service("service_reused", "redis");
        assert!(!reused.to_string().contains("ext3rnal"), "{reused}");
        let ended = orch.finish();
        expect_complete(&ended);
        expect_no_password(project.path());
        let broker = u32::try_from(number).unwrap() + 1;
        assert!(
            keys(&redis, broker) > 0,
            "{url}: orch's own keys and the worker's bindings"
        );
        let results = match result_url {
            Some(_) => broker + 10,
            None => broker,
        };
        let pattern: Vec<String> = redis::cmd("KEYS")
            .arg("celery-task-meta-*")
            .query(&mut connection(&redis, results))
            .unwrap();
        assert!(pattern.len() >= 6, "{url}: {pattern:?}");
    }
}

/// Creates certificates of an authority of the test.
fn certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(directory)
            .output()
            .expect("could not start openssl");
        assert!(output.status.success(), "{output:?}");
    };
    let new = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ];
    openssl(
        &[
            &new[..],
            &["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"],
        ]
        .concat(),
    );
    let signed = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-keyout",
        "server.key",
        "-out",
        "server.pem",
    ];
    let subject = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl(&[&new[..], &signed, &subject].concat());
}

#[test]
fn a_run_works_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let port = free_port();
    let mut command = Command::new(support::server::program());
    command.current_dir(directory.path());
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        "0",
        "--tls-port",
        &port.to_string(),
        "--save",
        "",
    ]);
    command.args([
        "--tls-cert-file",
        "server.pem",
        "--tls-key-file",
        "server.key",
        "--tls-ca-cert-file",
        "ca.pem",
    ]);
    command.args(["--tls-auth-clients", "no", "--requirepass", PASSWORD]);
    let mut server = Process::start("redis-server", &mut command, &directory.path().join("redis.log"));
    server.wait_until("ready", Duration::from_secs(20), |server| {
        server.log().contains("Ready to accept connections")
    });
    let authority = directory.path().join("ca.pem");
    for options in [
        format!("ssl_cert_reqs=required&ssl_ca_certs={}", authority.display()),
        "ssl_cert_reqs=none".to_owned(),
    ] {
        let url = |database: u32| format!("rediss://:{ENCODED}@localhost:{port}/{database}?{options}");
        let project = project(&format!(
            "mode = \"external\"\nurl = \"{}\"\nresult_url = \"{}\"",
            url(1),
            url(2)
        ));
        expect_complete(&project.orch(&["run"]).finish());
        expect_no_password(project.path());
    }
    // A client that does not trust the certificate fails at once, with that reason.
    let untrusted = project(&format!(
        "mode = \"external\"\nurl = \"rediss://:{ENCODED}@localhost:{port}/1?ssl_cert_reqs=required\"\nstart_timeout = \"1s\""
    ));
    let ended = untrusted.orch(&["run"]).finish();
    ended.expect_code(3);
    assert!(shown(&ended).contains("certificate"), "{}", shown(&ended));
}

#[test]
fn commands_and_runs_next_to_an_instance_use_its_url() {
    let redis = RedisServer::start_with(Some(PASSWORD));
    let socket = redis
        .socket_url(6)
        .replace("redis+socket://", &format!("redis+socket://:{ENCODED}@"));
    let project = project(&format!("mode = \"external\"\nurl = \"{socket}\""));
    let mut up = project.orch(&["up"]);
    bookshop::wait_until_up(&mut up, &project);
    let ping = project.orch_bare(&["celery", "ping"]).finish();
    ping.expect_code(0);
    assert!(ping.stdout.starts_with("healthy: "), "{}", ping.stdout);
    let variables = project
        .orch_bare(&[
            "exec",
            "--",
            "sh",
            "-c",
            "echo \"$REDIS_URL|$REDIS_HOST|$REDIS_PORT|$REDIS_PASSWORD\"",
        ])
        .finish();
    variables.expect_code(0);
    let socket = redis
        .socket_url(6)
        .replace("redis+socket://", "")
        .replace("?virtual_host", "?db");
    assert_eq!(
        variables.stdout.trim(),
        format!("unix://default:{ENCODED}@{socket}|||{PASSWORD}")
    );
    expect_complete(&project.orch(&["run"]).finish());
    up.signal(Signal::SIGTERM);
    up.finish().expect_code(143);
}

#[test]
fn wrong_credentials_and_servers_are_named_at_once() {
    let redis = RedisServer::start_with(Some(PASSWORD));
    let port = redis.port;
    let project = project(&format!(
        "mode = \"external\"\nurl = \"redis://:{ENCODED}x@127.0.0.1:{port}/1\""
    ));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(2);
    assert!(
        shown(&ended).contains("refuses the credentials of its URL"),
        "{}",
        shown(&ended)
    );
    assert!(
        shown(&ended).contains(&format!("127.0.0.1:{port}")),
        "{}",
        shown(&ended)
    );
    expect_no_password(project.path());
}

#[test]
fn an_external_redis_that_is_away_is_waited_for() {
    for by_url in [true, false] {
        let mut redis = RedisServer::start();
        redis.kill();
        let project = project(&match by_url {
            true => format!(
                "mode = \"external\"\nurl = \"{}\"\nstart_timeout = \"50s\"",
                redis.url(1)
            ),
            false => format!("mode = \"external\"\nport = {}\nstart_timeout = \"50s\"", redis.port),
        });
        let mut orch = project.orch(&["run"]);
        let notice = orch.wait_for("the notice", |event| event["event"] == "redis_problem_found");
        let unavailable = &notice["problem"]["unavailable"];
        let place = format!("127.0.0.1:{}", redis.port);
        assert_eq!(unavailable["timeout_ms"], 50_000, "{notice}");
        assert!(unavailable["reason"].as_str().unwrap().contains(&place), "{notice}");
        redis.start_again();
        let ended = orch.finish();
        expect_complete(&ended);
        let notices = ended.events_of("redis_problem_found");
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(ended.stdout.contains("waiting for it up to 50s"), "{}", ended.stdout);
    }
}

#[test]
fn an_external_redis_that_stays_away_is_named() {
    let (broker, nobody) = (RedisServer::start(), free_port());
    for (lines, what) in [
        (
            format!("url = \"redis://127.0.0.1:{nobody}/1\""),
            "the external Redis does not answer within 1s",
        ),
        // The server of the results counts too.
        (
            format!(
                "url = \"{}\"\nresult_url = \"redis://127.0.0.1:{nobody}/1\"",
                broker.url(0)
            ),
            "the external Redis does not answer within 1s",
        ),
        (format!("port = {nobody}"), "no Redis answers on 127.0.0.1:"),
    ] {
        let project = project(&format!("mode = \"external\"\nstart_timeout = \"1s\"\n{lines}"));
        let ended = project.orch(&["run"]).finish();
        ended.expect_code(3);
        assert!(shown(&ended).contains(what), "{}", shown(&ended));
        assert!(shown(&ended).contains("start_timeout"), "{}", shown(&ended));
        assert!(shown(&ended).contains(&nobody.to_string()), "{}", shown(&ended));
        let notices = ended.events_of("redis_problem_found");
        assert_eq!(notices.len(), 1, "{notices:?}");
    }
}

#[test]
fn an_own_redis_listens_on_ipv6_loopback() {
    let project = project("mode = \"own\"\nport = 0\nhost = \"::1\"");
    let mut orch = project.orch(&["run"]);
    let ready = orch.wait_for_service("service_ready", "redis");
    assert!(ready["detail"].as_str().unwrap().contains(" on [::1]:"), "{ready}");
    expect_complete(&orch.finish());
}
