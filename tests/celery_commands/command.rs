//! The command under test, its output, and a worker for the commands that need one.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::celery::{Worker, WorkerOptions};
use crate::support::redis::RedisServer;

pub fn orch(arguments: &[&str], broker: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command
        .arg("celery")
        .args(arguments)
        .env_remove("CELERY_RESULT_BACKEND")
        .env_remove("CELERY_BROKER_URL");
    command.envs(broker.map(|url| ("CELERY_BROKER_URL", url)));
    command.output().expect("could not start orch")
}

#[track_caller]
pub fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}{error}");
    text.trim_end().to_owned()
}

/// Worker of the test app with its Redis.
pub struct Shop {
    pub redis: RedisServer,
    _worker: Worker,
}

impl Shop {
    pub fn open(options: WorkerOptions) -> Self {
        let redis = RedisServer::start();
        let worker = Worker::start(&redis, options);
        Self { redis, _worker: worker }
    }

    pub fn orch(&self, arguments: &[&str]) -> Output {
        let backend = self.redis.url(1);
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--backend", &backend]).collect();
        orch(&arguments, Some(&self.redis.url(0)))
    }

    #[track_caller]
    pub fn says(&self, arguments: &[&str], code: i32) -> String {
        said(&self.orch(arguments), code)
    }

    #[track_caller]
    pub fn object(&self, arguments: &[&str], code: i32) -> Value {
        let text = self.says(&[arguments, &["--json"]].concat(), code);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}
