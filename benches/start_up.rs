//! Start time that orch adds: from exec to a ready worker, compared with `redis-server` and the same worker command
//! line that are started by hand and pinged by this program. `cargo bench --bench start_up`; alternating, 10 runs each,
//! medians.
//!
//! The first start in a directory asks the app for its settings, which imports the app; later starts read them
//! from a file until a file of the app changes.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/support/mod.rs"]
mod support;
use support::bookshop;
use support::orch::Project;
use support::server;

const RUNS: usize = 10;

fn main() {
    let (mut first_starts, mut later_starts, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let project = project();
        first_starts.push(orch(&project));
        later_starts.push(orch(&project));
        by_hand.push(hand());
    }
    let by_hand = median(by_hand);
    for (which, starts) in [("first start", first_starts), ("later start", later_starts)] {
        let with_orch = median(starts);
        println!(
            "from exec to a worker that answers a ping, {which} in a directory, median of {RUNS} alternating runs: orch \
             {:.3} s, by hand {:.3} s, orch adds {:+.3} s",
            with_orch.as_secs_f64(),
            by_hand.as_secs_f64(),
            with_orch.as_secs_f64() - by_hand.as_secs_f64()
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn project() -> Project {
    let project = Project::new(
        "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"chords\"\nconcurrency = 2\nrequired_tasks = [\"chords.dispatch\"]\n",
    );
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apps/chords.py");
    fs::copy(app, project.file("chords.py")).unwrap();
    std::os::unix::fs::symlink(bookshop::environment().join(".venv"), project.file(".venv")).unwrap();
    project
}

fn orch(project: &Project) -> Duration {
    let started = Instant::now();
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "celery");
    let took = started.elapsed();
    orch.signal(nix::sys::signal::Signal::SIGTERM);
    orch.finish().expect_code(143);
    took
}

#[expect(
    clippy::disallowed_methods,
    reason = "the processes to compare with are started without orch"
)]
fn hand() -> Duration {
    let project = project();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let node = format!("orch@{host}");
    let log = |name: &str| fs::File::create(project.file(name)).unwrap();
    let started = Instant::now();
    let mut redis = Command::new(server::program())
        .args(["--port", &port.to_string(), "--appendonly", "yes", "--save", ""])
        .current_dir(project.path())
        .stdout(log("redis.log"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let url = |db: u32| format!("redis://127.0.0.1:{port}/{db}");
    let client = redis::Client::open(url(0)).unwrap();
    while client.get_connection().is_err() {
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let mut worker = Command::new(project.file(".venv/bin/celery"))
        .args([
            "-A", "chords", "worker", "-n", &node, "-Q", "celery", "-c", "2", "-P", "prefork", "-l", "INFO", "-E",
        ])
        .args(["--without-mingle", "--without-gossip"])
        .current_dir(project.path())
        .env("CELERY_BROKER_URL", url(0))
        .env("CELERY_RESULT_BACKEND", url(1))
        .stdout(log("celery.log"))
        .stderr(log("celery.err"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let took = runtime.block_on(async {
        let endpoints = orch::celery::Endpoints::from_urls(&url(0), &url(1)).unwrap();
        let client = orch::celery::Client::connect(endpoints).unwrap();
        let node = orch::celery::NodeName::new(node);
        let target = orch::celery::ControlTarget::from(&node);
        while client
            .control()
            .ping(&target, Duration::from_millis(500))
            .await
            .unwrap()
            .of(&node)
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        started.elapsed()
    });
    let end = |pid: u32| {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid.cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
    };
    end(worker.id());
    worker.wait().unwrap();
    end(redis.id());
    redis.wait().unwrap();
    took
}
