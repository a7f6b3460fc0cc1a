//! The configuration file, variables, arguments and the file of environment variables.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use orch::config::{BeatMode, CommandKind, Config, LoadOptions, Probe, RedisMode, SiteTimeout};
use serde_json::json;

use crate::{load, load_with, options, project, variables};

#[test]
fn an_empty_file_is_a_configuration() {
    let config = load("");
    assert_eq!(config.redis.mode, RedisMode::Auto);
    assert!(!config.celery.enabled && !config.proxies.enabled);
    assert!(config.sites.is_empty() && config.services.is_empty());
}

#[test]
fn the_file_is_found_in_order() {
    let directory = project(&[
        ("given.toml", "orch.instance = 'given'"),
        ("variable.toml", "orch.instance = 'variable'"),
        ("orch.toml", "orch.instance = 'here'"),
        ("config/orch.toml", "orch.instance = 'below'"),
    ]);
    let instance = |options: LoadOptions| {
        let config = Config::load(options).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config.file.is_absolute(), "{config:?}");
        config.orch.instance
    };
    let mut found = options(directory.path());
    found.file = Some(PathBuf::from("given.toml"));
    found.environment.extend(variables(&[("ORCH_CONFIG", "variable.toml")]));
    assert_eq!(instance(found.clone()), "given");
    found.file = None;
    assert_eq!(instance(found.clone()), "variable");
    found.environment.extend(variables(&[("ORCH_CONFIG", "")]));
    assert_eq!(instance(found.clone()), "here");
    fs::remove_file(directory.path().join("orch.toml")).expect("it is there");
    assert_eq!(instance(found), "below");
}

#[test]
fn paths_are_relative_to_the_file() {
    let directory = project(&[(
        "config/orch.toml",
        "[celery]\napp = 'a'\n[proxies]\nfile = './pool.json'",
    )]);
    let base = directory.path().join("config");
    let config = Config::load(options(directory.path())).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.orch.state_dir, base.join(".orch"));
    assert_eq!(config.celery.directory, base);
    assert_eq!(config.celery.beat_schedule, base.join(".orch/beat/schedule"));
    assert_eq!(config.proxies.file, base.join("pool.json"));
}

#[test]
fn arguments_win_over_variables_and_variables_over_the_file() {
    let text =
        "[celery]\napp = 'a'\nconcurrency = 1\nenv = { A = 'file', B = 'file' }\n[sites.'imot.bg']\ndispatch = 't'";
    let sources = |environment: &[(&str, &str)], arguments: &[&str]| {
        load_with(text, |options| {
            options.environment.extend(variables(environment));
            options.overrides = arguments.iter().map(|text| (*text).to_owned()).collect();
        })
    };
    let variable = ("ORCH_CELERY__CONCURRENCY", "2");
    assert_eq!(sources(&[], &[]).celery.concurrency, 1);
    assert_eq!(sources(&[variable], &[]).celery.concurrency, 2);
    assert_eq!(sources(&[variable], &["celery.concurrency=3"]).celery.concurrency, 3);
    let last = sources(&[variable], &["celery.concurrency=3", "celery.concurrency = 4"]);
    assert_eq!(last.celery.concurrency, 4);

    let config = sources(
        &[
            ("ORCH_CELERY__APP", "5"),
            ("ORCH_CELERY__ENV__B", "variable"),
            ("ORCH_CELERY__QUEUES", "['x', 'y']"),
            ("ORCH_REDIS__PASSWORD", "0123"),
            ("ORCH_REDIS__MODE", "external"),
            ("ORCH_ORCH__INSTANCE", "nightly"),
            ("ORCH_CONFIGURATION", "not one"),
            ("ORCH_RUN_ID", "nor this"),
        ],
        &[
            "sites.\"imot.bg\".timeout=\"5m\"",
            "celery.beat=separate",
            "proxies.enabled=true",
        ],
    );
    assert_eq!(config.celery.app, "5", "a number may be taken as text");
    assert_eq!(config.celery.env["A"], "file");
    assert_eq!(config.celery.env["B"], "variable");
    assert_eq!(config.celery.queues, ["x", "y"]);
    assert_eq!(config.celery.beat, BeatMode::Separate);
    assert_eq!(config.redis.mode, RedisMode::External);
    let password = config
        .redis
        .password
        .as_ref()
        .map(|password| password.expose().to_owned());
    assert_eq!(password.as_deref(), Some("0123"));
    assert_eq!(config.orch.instance, "nightly");
    assert_eq!(config.sites[0].timeout, SiteTimeout::Fixed(Duration::from_secs(300)));
    assert!(config.proxies.enabled);
    assert!(!format!("{config:?}").contains("0123"), "{config:?}");
}

#[test]
fn variables_find_names_of_any_case() {
    let text = "[services.Web]\ncommand = ['true']\nenv = { Path2 = 'a' }\n";
    let config = load_with(text, |options| {
        options.environment.extend(variables(&[
            ("ORCH_SERVICES__WEB__GRACE", "1s"),
            ("ORCH_SERVICES__WEB__ENV__NEW_Name", "x"),
        ]));
    });
    assert_eq!(config.services[0].grace, Duration::from_secs(1));
    assert_eq!(config.services[0].env["NEW_Name"], "x");
}

#[test]
fn ports_are_chosen_and_put_into_strings() {
    let text = "
        [ports]
        web = 0
        other = 0
        fixed = 1234
        [redis]
        port = '{ports.fixed}'
        [services.web]
        command = ['true', '{ports.web}', '--listen=127.0.0.1:{ports.other}', '{{ports.web}}', '${HOME}']
        env = { PORT = '{ports.fixed}' }
        readiness = { http = 'http://127.0.0.1:{ports.web}/' }
        [sites.a]
        dispatch = { task = 't', args = ['{ports.fixed}', 'p{ports.fixed}'] }
    ";
    let config = load(text);
    let (web, other) = (config.ports["web"], config.ports["other"]);
    assert!(web > 0 && other > 0 && web != other);
    TcpListener::bind(("127.0.0.1", web)).expect("a chosen port is free");
    assert_eq!(config.redis.port, 1234);
    let service = &config.services[0];
    assert_eq!(service.command[1], web.to_string());
    assert_eq!(service.command[2], format!("--listen=127.0.0.1:{other}"));
    assert_eq!(service.command[3..], ["{{ports.web}}", "${HOME}"]);
    assert_eq!(service.env["PORT"], "1234");
    let CommandKind::Daemon { readiness, .. } = &service.kind else {
        panic!("{service:?}")
    };
    let url = format!("http://127.0.0.1:{web}/");
    assert_eq!(*readiness, Some(Probe::Http { url }));
    assert_eq!(config.sites[0].dispatch.args, [json!(1234), json!("p1234")]);

    let known = load_with(text, |options| {
        options.known_ports = [("web".to_owned(), 4711), ("fixed".to_owned(), 1)].into();
    });
    assert_eq!(known.ports["web"], 4711);
    assert_eq!(known.ports["fixed"], 1234, "what is written holds");
}

#[test]
fn substitutions_in_an_env_file_are_those_of_docker_compose() {
    // SET is `s`, EMPTY is empty, NONE is not set; the expected value, or a part of the error.
    let rows: &[(&str, Result<&str, &str>)] = &[
        ("${SET}", Ok("s")),
        ("${NONE}", Ok("")),
        ("${SET-d} ${EMPTY-d} ${NONE-d}", Ok("s  d")),
        ("${SET:-d} ${EMPTY:-d} ${NONE:-d}", Ok("s d d")),
        ("${SET+a} ${EMPTY+a} ${NONE+a}.", Ok("a a .")),
        ("${SET:+a} ${EMPTY:+a}${NONE:+a}.", Ok("a .")),
        ("${SET:?m}${SET?m}${EMPTY?m}", Ok("ss")),
        ("${EMPTY:?no value}", Err("`EMPTY` is not set: no value")),
        ("${NONE?}", Err("`NONE` is not set")),
        ("${NONE:-${EMPTY:-${SET}x}}y", Ok("sxy")),
        ("${NONE:-${NONE-{}}}", Ok("{}")),
        ("\"${NONE:-a\\\"b}\"", Ok("a\"b")),
        ("\"\\${SET} $SET $$\"", Ok("${SET} $SET $$")),
        ("'${SET}'", Ok("${SET}")),
        ("${SET", Ok("${SET")),
        ("${}", Err("has no valid variable name")),
        ("${SET!x}", Err("has none of")),
        ("${SET:}", Err("has none of")),
        ("${SET:=x}", Err("has none of")),
    ];
    for (value, expected) in rows {
        let file = format!("SET=s\nEMPTY=\nV={value}\nLAST=1\n");
        let directory = project(&[
            ("orch.toml", "orch.env_file = '.env'\nredis.mode = 'off'\n"),
            (".env", &file),
        ]);
        let loaded = Config::load(LoadOptions {
            directory: directory.path().to_owned(),
            ..LoadOptions::default()
        });
        match (loaded, expected) {
            (Ok(config), Ok(expected)) => {
                let found = config.orch.env_file_variables;
                let expected = ("V".to_owned(), (*expected).to_owned());
                assert!(found.contains(&expected), "{value}: {found:?}");
                assert_eq!(found.len(), 4);
            }
            (Err(errors), Err(expected)) => {
                let text = errors.to_string();
                assert!(text.contains(expected) && text.contains(".env:3"), "{value}: {text}");
                assert!(!text.contains(".env:4"), "{text}");
            }
            (loaded, _) => panic!("{value}: {loaded:?}"),
        }
    }
    let key = "K=\"-----BEGIN-----\r\nabc==\r\n-----END-----\"\r\nL='a\r\nb'\r\nM=1\r\n";
    let directory = project(&[
        ("orch.toml", "orch.env_file = '.env'\nredis.mode = 'off'\n"),
        (".env", key),
    ]);
    let config = Config::load(LoadOptions {
        directory: directory.path().to_owned(),
        ..LoadOptions::default()
    });
    let found = config.unwrap().orch.env_file_variables;
    assert_eq!(found[0].1, "-----BEGIN-----\nabc==\n-----END-----");
    assert_eq!((found[1].1.as_str(), found[2].1.as_str()), ("a\nb", "1"));
}

#[test]
fn an_env_file_is_read_as_other_tools_read_it() {
    let file = "\u{feff}# comment
PLAIN=value # comment
HASH=a#b
EMPTY=
export EXPORTED = 'single ${PLAIN} # \\n'
DOUBLE=\"a\\tb \\\"c\\\" \\$HOME ${PLAIN}\"
LINES=\"one
two\"
DEFAULT=${NOWHERE:-fallback}/${PLAIN}/${CALLER}
UNKNOWN=[${NOWHERE}]
DOLLAR=pa$$word
PLAIN=again
";
    let directory = project(&[("orch.toml", "orch.env_file = '.env'"), (".env", file)]);
    let mut options = options(directory.path());
    options.environment.extend(variables(&[("CALLER", "called")]));
    let config = Config::load(options).unwrap_or_else(|errors| panic!("{errors}"));
    let expected = [
        ("PLAIN", "value"),
        ("HASH", "a#b"),
        ("EMPTY", ""),
        ("EXPORTED", "single ${PLAIN} # \\n"),
        ("DOUBLE", "a\tb \"c\" $HOME value"),
        ("LINES", "one\ntwo"),
        ("DEFAULT", "fallback/value/called"),
        ("UNKNOWN", "[]"),
        ("DOLLAR", "pa$$word"),
        ("PLAIN", "again"),
    ];
    assert_eq!(config.orch.env_file_variables, variables(&expected));
}

#[test]
fn colour_is_used_when_asked_for() {
    let directory = project(&[("orch.toml", "x = 1")]);
    let text = |color| {
        let options = LoadOptions {
            color,
            ..options(directory.path())
        };
        Config::load(options).expect_err("there is no key `x`").to_string()
    };
    assert!(text(true).contains('\u{1b}'));
    assert!(!text(false).contains('\u{1b}'));
}
