//! Questions to the server itself, healthy or not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use orch::celery::{Client, Endpoint, Endpoints, Error, Task};

use crate::scene::{Scene, client, run};
use crate::support::redis::RedisServer;

fn client_of(endpoint: Endpoint) -> Client {
    Client::connect(Endpoints {
        broker: endpoint.clone(),
        backend: endpoint,
    })
    .expect("no files are read")
}

#[test]
fn a_server_tells_what_it_is() {
    let scene = Scene::without_worker();
    run(async {
        let server = scene.client.server_info().await.expect("Redis is up");
        assert!(
            server.redis_major_minor().is_some_and(|version| version >= (6, 2)),
            "{server:?}"
        );
        assert_eq!(server.process_id, Some(scene.redis.pid()));
        assert!(
            !server.loading && !server.persistence_failing && server.used_memory > 0,
            "{server:?}"
        );
        scene.client.ping_redis().await.expect("Redis is up");
    });
}

#[test]
fn a_server_is_reached_by_its_socket_as_well() {
    let scene = Scene::without_worker();
    run(async {
        let by_socket = client_of(Endpoint::from_url(&scene.redis.socket_url(0)).expect("our own URL"));
        by_socket
            .publish(&Task::new("wire_app.add"))
            .await
            .expect("Redis is up");
        by_socket.events().await.expect("Redis is up");
        assert_eq!(scene.client.queue_depth("celery").await.expect("Redis is up")[&0], 1);
    });
}

#[test]
fn connections_without_the_password_are_counted() {
    let redis = RedisServer::start_with(Some("hunter2"));
    run(async {
        let ours = client(&redis);
        ours.ping_redis().await.expect("the password is right");
        let before = ours
            .errorstats()
            .await
            .expect("Redis is up")
            .get("NOAUTH")
            .copied()
            .unwrap_or(0);
        let theirs = client_of(Endpoint::tcp("127.0.0.1", redis.port, 0));
        let error = theirs.ping_redis().await.expect_err("it wants a password");
        assert!(matches!(error, Error::CredentialsRefused { .. }), "{error:?}");
        assert!(ours.errorstats().await.expect("Redis is up")["NOAUTH"] > before);
    });
}

#[test]
fn what_is_not_redis_is_said_not_to_be() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    // The first connection gets a pipeline, which fails only because the connection breaks; then the client asks again.
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut connection, _) = listener.accept().expect("the client connects");
            let mut request = [0; 64];
            let _read = connection.read(&mut request).expect("the client speaks first");
            connection
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .expect("the client listens");
            // A close with unread bytes would take the answer away from a client that is still writing.
            let _rest = connection.read_to_end(&mut Vec::new());
        }
    });
    run(async {
        let error = client_of(Endpoint::tcp("127.0.0.1", port, 0))
            .ping_redis()
            .await
            .expect_err("it speaks HTTP");
        assert!(matches!(error, Error::NotRedis { .. }), "{error:?}");
    });
    server.join().expect("it answered twice");
}

#[test]
fn what_does_not_answer_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    run(async {
        let client = client_of(Endpoint::tcp("127.0.0.1", port, 0)).with_deadline(Duration::from_millis(100));
        let error = client.ping_redis().await.expect_err("nobody accepts");
        assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error:?}");
        assert!(error.is_transient());
    });
    drop(listener);
}
