//! An external Redis with few permissions for its users: the output of `orch redis acl` is enough, and missing
//! permissions are named.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

mod support;
use support::bookshop;
use support::orch::{Ended, Project};
use support::redis::RedisServer;

/// Creates a project with the site `short` of five chunks, as the user `scraper`.
fn project(redis: &RedisServer) -> Project {
    let project = bookshop::project_with(
        "own_settings",
        &format!(
            "[redis]\nmode = \"external\"\nurl = \"redis://scraper:pw@127.0.0.1:{}/2\"\n\
             [celery]\napp = \"own_settings\"\nconcurrency = 2\nacks_late = true\n\
             [sites.short]\ntimeout = \"60s\"\ndispatch = {{ task = \"own.dispatch\", args = [\"{{site}}\", 5, 0.0] }}\n",
            redis.port
        ),
    );
    fs::write(project.file("settings.json"), "{}").unwrap();
    project
}

/// Gives the user the permissions that the command prints, then these further ones.
fn allow(redis: &RedisServer, project: &Project, further: &[&str]) {
    let printed = project.orch(&["redis", "acl"]).finish();
    printed.expect_code(0);
    let line = printed.stdout.lines().last().unwrap().replace(">PASSWORD", ">pw");
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("scraper").arg("reset");
    let words = line.strip_prefix("user scraper ").unwrap().split(' ');
    for word in words.chain(further.iter().copied()) {
        command.arg(word);
    }
    let _: () = command.query(&mut redis.connection(0)).unwrap();
}

fn shown(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

#[test]
fn what_is_printed_is_enough() {
    let redis = RedisServer::start();
    let project = project(&redis);
    allow(&redis, &project, &[]);
    for _ in 0..2 {
        let ended = project.orch(&["run"]).finish();
        ended.expect_code(0);
        assert_eq!(ended.events_of("site_finished")[0]["counts"]["completed_chunks"], 5);
    }
    let url = format!("redis://scraper:pw@127.0.0.1:{}/2", redis.port);
    for arguments in [
        &["queues"][..],
        &["publish", "own.chunk", "--args", "[\"a\", 1, 0]"],
        &["ping"],
        &["restore"],
    ] {
        let ended = project
            .orch_with(
                &[&["celery"], arguments].concat(),
                &[("CELERY_BROKER_URL", &url), ("CELERY_RESULT_BACKEND", &url)],
                std::time::Duration::from_secs(15),
            )
            .finish();
        assert!(!shown(&ended).contains("NOPERM"), "{arguments:?}: {}", shown(&ended));
    }
    let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut redis.connection(0)).unwrap();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn what_is_missing_is_named() {
    let redis = RedisServer::start();
    let project = project(&redis);
    for (further, words, code) in [
        (&["-ping"][..], "`+ping`", 2),
        (&["-select"], "`+select`", 2),
        (&["-eval"], "`+eval`", 1),
    ] {
        allow(&redis, &project, further);
        let ended = project.orch(&["run"]).finish();
        assert_eq!(ended.code, Some(code), "{}", shown(&ended));
        assert!(shown(&ended).contains(words), "{words}: {}", shown(&ended));
        assert!(shown(&ended).contains("orch redis acl"), "{}", shown(&ended));
    }
}
