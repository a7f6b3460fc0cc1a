//! The addresses of Redis in Celery's URLs, and the errors where the server of an address does not serve.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::process::{Command, Output};
use std::time::Duration;

use support::process::Process;
use support::redis::{RedisServer, free_port};

/// Publishes a task to this broker with the binary.
fn publish(broker: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orch"))
        .args(["celery", "publish", "shop.add"])
        .env("CELERY_BROKER_URL", broker)
        .env_remove("CELERY_RESULT_BACKEND")
        .output()
        .unwrap()
}

/// Counts the tasks that wait in a database.
fn waiting(redis: &RedisServer, database: u32) -> u32 {
    redis::cmd("LLEN")
        .arg("celery")
        .query(&mut redis.connection(database))
        .unwrap()
}

#[test]
fn every_form_of_an_address_leads_to_its_database() {
    let redis = RedisServer::start_with(Some("pass"));
    let (port, nobody) = (redis.port, free_port());
    let socket = redis.socket_url(7).replace("redis+socket://", "redis+socket://:pass@");
    for (url, database) in [
        (socket.as_str(), 7),
        (&format!("redis://:pass@127.0.0.1:{port}/2?db=3"), 3),
        (&format!("redis://127.0.0.1:{port}/4?password=pass"), 4),
        (
            &format!("redis://127.0.0.1:{nobody}/5;redis://:pass@127.0.0.1:{port}/5"),
            5,
        ),
        (
            &format!("redis://:pass@127.0.0.1:{port}/6;redis://127.0.0.1:{nobody}/6"),
            6,
        ),
    ] {
        let output = publish(url);
        assert_eq!(output.status.code(), Some(0), "{url}: {output:?}");
        assert_eq!(waiting(&redis, database), 1, "{url}");
    }
}

#[test]
fn a_replica_in_a_list_is_left_for_the_server_behind_it() {
    let (replica, master) = (RedisServer::start(), RedisServer::start());
    let follow = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port).to_owned();
    let _: () = follow.query(&mut replica.connection(0)).unwrap();
    let output = publish(&format!("{};{}", replica.url(0), master.url(0)));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(waiting(&master, 0), 1, "one task, published once");
    // A replica alone is waited for until the deadline, and the error has its own words.
    let output = publish(&replica.url(0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(said.contains("READONLY"), "{said}");
}

#[test]
fn a_cluster_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    // Its default cluster port, ten thousand above the port, may be no valid port.
    let (port_text, bus_port) = (port.to_string(), free_port().to_string());
    let mut command = Command::new(support::server::program());
    command.current_dir(directory.path());
    command.args(["--bind", "127.0.0.1", "--port", &port_text, "--save", ""]);
    command.args(["--cluster-enabled", "yes", "--cluster-port", &bus_port]);
    let mut server = Process::start("redis-server", &mut command, &directory.path().join("redis.log"));
    server.wait_until("ready", Duration::from_secs(20), |server| {
        server.log().contains("Ready to accept connections")
    });
    let output = publish(&format!("redis://127.0.0.1:{port}/1"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    // A cluster of Valkey has databases, and only one of them unless the configuration sets more.
    let refusal = match server.log().contains("Valkey") {
        true => "DB index is out of range",
        false => "Redis Cluster",
    };
    assert!(said.contains(refusal), "{said}");
}
