//! Sites: their defaults, their file in every format, their selection and their dependencies.

use std::time::Duration;

use orch::config::{Config, MinResults, SiteConfig, SiteTimeout};
use serde_json::json;

use crate::{load, options, project};

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

/// Shows that integers beyond 64 bits keep their digits in every format, also where a template puts them into a text.
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
        let text = orch::config::template::fill(&json!(format!("<{{config.{key}}}>")), &values);
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
    let needs = &config.sites[3].dependencies;
    assert_eq!(needs.after_finished, ["b".into()]);
    assert_eq!(needs.after_any, ["c".into(), "b".into()]);
}

/// Shows that the largest allowed number of sites in one chain of dependencies is read within seconds and without
/// recursion, also when every name is wrong.
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
        begun.elapsed().saturating_sub(right)
    );
    assert!(errors.count() >= 9_999, "{}", errors.count());
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
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
