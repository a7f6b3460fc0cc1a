//! The proxy pool of a night: the proxies that count, the effect of a refresh that fails, and a file that is no pool.

mod support;

use std::fs::{self, File};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::bookshop;
use support::orch::{Ended, Orch, Project};

const POOL: &str = "live_proxies.json";
const SITE: &str = "[sites.shop]\ndispatch = { task = \"pool.scrape\", kwargs = { site = \"{site}\" } }\n";
const SERVICES: &str = "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"pool_app\"\nconcurrency = 1\n";

fn project() -> Project {
    bookshop::project_with("pool_app", &format!("{SERVICES}{SITE}"))
}

/// Starts an instance whose services the nights of this project use.
fn up(project: &Project) -> Orch<'_> {
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    up
}

fn down(up: Orch<'_>) {
    up.signal(Signal::SIGINT);
    up.finish().expect_code(130);
}

/// Runs a night that wants ten proxies; a chain of this task refreshes them.
fn night(project: &Project, chain: Option<(&str, Value)>, arguments: &[&str]) -> Ended {
    let refresh = chain.map(|(task, kwargs)| {
        let entries = kwargs.as_object().expect("an object was written here").iter();
        let kwargs: Vec<String> = entries.map(|(key, value)| format!(", {key} = {value}")).collect();
        let kwargs = kwargs.concat();
        format!("refresh = [{{ task = \"{task}\", kwargs = {{ file = \"{POOL}\"{kwargs} }} }}]\n")
    });
    let refresh = refresh.unwrap_or_default();
    let configuration = format!("{SERVICES}[proxies]\nmin_usable = 10\n{refresh}{SITE}");
    fs::write(project.file("orch.toml"), configuration).expect("it is written");
    // Each night begins with its own count of refreshes.
    drop(fs::remove_file(project.file("refreshes")));
    project.orch(&[&["run"], arguments].concat()).finish()
}

fn write_pool(project: &Project, pool: impl AsRef<[u8]>) {
    fs::write(project.file(POOL), pool).expect("the pool is written");
}

fn proxies(count: usize, more: Value) -> Vec<Value> {
    let mut proxy = json!({"host": "10.0.0.1", "port": 3128});
    let fields = proxy.as_object_mut().expect("an object was written here");
    fields.extend(more.as_object().expect("an object was written in the test").clone());
    vec![proxy; count]
}

fn days_ago(days: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    now.as_secs() - days * 86_400
}

fn refreshes(ended: &Ended) -> (usize, usize, usize) {
    let count = |event| ended.events_of(event).len();
    (
        count("proxy_refresh_started"),
        count("proxy_refresh_finished"),
        count("proxy_refresh_failed"),
    )
}

fn expect_said(ended: &Ended, text: &str) {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains(text), "`{text}` is not in\n{said}");
}

#[test]
fn old_and_dead_proxies_are_refreshed_and_a_failed_refresh_is_counted_as_one() {
    let project = project();
    let up = up(&project);

    // The age is that of the entries.
    let old = proxies(40, json!({"last_checked": days_ago(7)}));
    let fresh = proxies(8, json!({"last_checked": days_ago(0)}));
    write_pool(&project, json!([old, fresh].concat().as_slice()).to_string());
    let ended = night(&project, Some(("pool.refresh", json!({}))), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (1, 1, 0));
    expect_said(&ended, "proxies: 8 usable of 48 (40 older than 24h) in ");
    expect_said(&ended, "proxies: 12 usable of 12, refreshed once\n");
    // The pool of the refresh is good enough for the next night.
    let ended = night(&project, Some(("pool.refresh", json!({}))), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (0, 0, 0));

    // The age is that of the file; the first refresh fails.
    write_pool(&project, Value::from(proxies(10, json!({}))).to_string());
    let pool = File::options().write(true).open(project.file(POOL)).expect("the pool");
    let week = Duration::from_secs(7 * 86_400);
    pool.set_modified(SystemTime::now() - week).expect("the time is set");
    let ended = night(&project, Some(("pool.refresh_fails_at_first", json!({}))), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (2, 1, 1));
    expect_said(&ended, "proxies: 0 usable of 10 (10 older than 24h) in ");
    expect_said(&ended, "proxies: 12 usable of 12, refreshed once, 1 refresh failed\n");

    // Entries that say that they are dead, and no refresh; a pool without a refresh is never too old.
    let dead = proxies(10, json!({"alive": false, "last_checked": days_ago(7)}));
    let alive = proxies(2, json!({"alive": true, "last_checked": days_ago(7)}));
    write_pool(&project, json!([dead, alive].concat().as_slice()).to_string());
    let ended = night(&project, None, &[]);
    ended.expect_code(4);
    expect_said(&ended, "proxies: 2 usable of 12 (10 marked as dead), not refreshed\n");
    expect_said(&ended, "--allow-few-proxies");
    let ended = night(&project, None, &["--set", "proxies.max_age=6d"]);
    ended.expect_code(4);
    expect_said(&ended, "0 usable of 12 (2 older than 6d, 10 marked as dead)");

    down(up);
}

#[test]
fn a_file_that_is_no_pool_is_one_failure_with_its_cure() {
    let project = project();
    let up = up(&project);
    let pool = project.file(POOL);
    let cure = format!("delete or repair {}", pool.display());
    let contents: [(&[u8], &str); 6] = [
        (b"null", "it is null, not a list of proxies"),
        (b"[\"words\", \"more words\"]", "it names no proxy: 2 of 2 entries"),
        (b"{\"a\": 1}", "it is an object without a list"),
        (b"[\"\xff\"]", "it is not UTF-8: 0xff at byte 2"),
        (b"[{\"host\": \"10.0", "it ends in the middle, at byte 15"),
        (b"[{'host': 1}]", "it is not JSON: key must be a string at byte 2"),
    ];
    // An app that first reads its pool fails; a second attempt would fail as well.
    for (number, (content, says)) in contents.into_iter().enumerate() {
        write_pool(&project, content);
        let is_refreshed = number % 2 == 0;
        let chain = is_refreshed.then(|| ("pool.refresh_reads_first", json!({})));
        let ended = night(&project, chain, &[]);
        ended.expect_code(4);
        let failed = usize::from(is_refreshed);
        assert_eq!(refreshes(&ended), (failed, 0, failed), "{}", ended.stdout);
        for text in ["could not read the proxy pool", says, &cure] {
            expect_said(&ended, text);
        }
        assert!(!ended.stderr.contains("--allow-few-proxies"), "{}", ended.stderr);
    }
    // An app that does not read the pool writes it anew.
    write_pool(&project, "null");
    let ended = night(&project, Some(("pool.refresh", json!({}))), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (1, 1, 0));

    // A directory cannot be replaced by a file: the refresh fails, whether it reads the pool or not.
    fs::remove_file(&pool).expect("the pool is removed");
    fs::create_dir(&pool).expect("a directory");
    let ended = night(&project, Some(("pool.refresh", json!({}))), &[]);
    ended.expect_code(4);
    assert_eq!(refreshes(&ended), (1, 0, 1));
    expect_said(&ended, "it is a directory");
    expect_said(&ended, &cure);
    // With few proxies allowed, the run goes on, and reports why there are none.
    let ended = night(&project, None, &["--allow-few-proxies"]);
    ended.expect_code(0);
    let accepted = ended.events_of("proxy_shortage_accepted");
    assert!(
        accepted.len() == 1 && accepted[0]["usable"] == 0 && accepted[0]["min_usable"] == 10,
        "{accepted:?}"
    );
    expect_said(&ended, &cure);

    down(up);
}

#[test]
fn no_refresh_is_begun_that_cannot_end_within_the_limit() {
    let project = project();
    let up = up(&project);
    let slow = || Some(("pool.refresh", json!({"seconds": 2.5})));
    night(&project, slow(), &[]).expect_code(0);

    write_pool(&project, "[]");
    let ended = night(&project, slow(), &["--proxy-timeout", "2s"]);
    ended.expect_code(4);
    assert_eq!(refreshes(&ended), (0, 0, 0), "{}", ended.stdout);
    expect_said(&ended, "no refresh is begun: it usually takes ");
    expect_said(&ended, "s, and 2s of `[proxies] timeout` are left");
    expect_said(&ended, "--proxy-timeout");
    assert!(!project.file("refreshes").exists(), "nothing was published");

    // The time suffices for one refresh, and after its failure not for another.
    let fails = Some(("pool.refresh_fails_at_first", json!({"seconds": 2})));
    let ended = night(&project, fails, &["--proxy-timeout", "4s"]);
    ended.expect_code(4);
    assert_eq!(refreshes(&ended), (1, 0, 1), "{}", ended.stdout);
    expect_said(&ended, "it is not begun again: it usually takes ");

    down(up);
}

#[test]
fn a_pool_with_which_a_site_had_no_results_is_refreshed_by_the_next_run() {
    let project = project();
    let up = up(&project);
    let chain = || Some(("pool.refresh", json!({})));
    let blocked = project.file("blocked");
    write_pool(
        &project,
        Value::from(proxies(12, json!({"last_checked": days_ago(0)}))).to_string(),
    );

    // All proxies are dead, and no entry says so: by default there is no retry, before which the pool would be
    // refreshed.
    fs::write(&blocked, "").expect("it is written");
    let ended = night(&project, chain(), &[]);
    ended.expect_code(1);
    assert_eq!(refreshes(&ended), (0, 0, 0), "{}", ended.stdout);
    let run_id = ended.events[0]["run_id"].as_str().expect("text").to_owned();

    fs::remove_file(&blocked).expect("it was there");
    let ended = night(&project, chain(), &["--resume"]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (1, 1, 0), "{}", ended.stdout);
    let suspected = ended.events_of("proxy_pool_suspected");
    assert!(
        suspected.len() == 1 && suspected[0]["site"] == "shop" && suspected[0]["run_id"] == run_id.as_str(),
        "{suspected:?}"
    );
    let ended = night(&project, chain(), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (0, 0, 0), "{}", ended.stdout);

    // A refresh that fails leaves the pool unchanged, which by its entries has enough proxies.
    fs::write(&blocked, "").expect("it is written");
    night(&project, chain(), &[]).expect_code(1);
    fs::remove_file(&blocked).expect("it was there");
    let ended = night(&project, Some(("pool.refresh_fails", json!({}))), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended).1, 0, "{}", ended.stdout);

    // Another program has written the pool since.
    fs::write(&blocked, "").expect("it is written");
    night(&project, chain(), &[]).expect_code(1);
    fs::remove_file(&blocked).expect("it was there");
    write_pool(
        &project,
        Value::from(proxies(12, json!({"last_checked": days_ago(0)}))).to_string(),
    );
    let ended = night(&project, chain(), &[]);
    ended.expect_code(0);
    assert_eq!(refreshes(&ended), (0, 0, 0), "{}", ended.stdout);

    // No refresh is configured.
    fs::write(&blocked, "").expect("it is written");
    night(&project, None, &[]).expect_code(1);
    fs::remove_file(&blocked).expect("it was there");
    let ended = night(&project, None, &[]);
    ended.expect_code(0);
    assert!(!ended.stdout.contains("the proxies are refreshed"), "{}", ended.stdout);
    down(up);
}

/// Shows that the error names the queue: few proxies are not the cause, and to continue with few proxies would not
/// help.
#[test]
fn a_refresh_in_a_queue_without_a_consumer_names_the_queue() {
    let project = project();
    let refresh =
        format!("refresh = [{{ task = \"pool.refresh\", queue = \"nowhere\", kwargs = {{ file = \"{POOL}\" }} }}]\n");
    let configuration = format!("{SERVICES}[proxies]\nmin_usable = 10\n{refresh}{SITE}");
    fs::write(project.file("orch.toml"), configuration).expect("it is written");
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(4);
    expect_said(
        &ended,
        "1 of its tasks waits in the queue `nowhere`, which no worker consumes",
    );
    expect_said(&ended, "hint:  add the queue to `[celery] queues`");
    assert!(
        !ended.stderr.contains("--allow-few-proxies") && !ended.stdout.contains("--allow-few-proxies"),
        "{}",
        ended.stdout
    );
    assert_eq!(refreshes(&ended), (1, 0, 1), "a second one would wait there too");
}
