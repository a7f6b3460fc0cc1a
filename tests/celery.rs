//! The Celery client with a real Redis and a real Celery worker.

mod support;

#[path = "celery/batch.rs"]
mod batch;
#[path = "celery/canvas.rs"]
mod canvas;
#[path = "celery/control.rs"]
mod control;
#[path = "celery/events.rs"]
mod events;
#[path = "celery/example.rs"]
mod example;
#[path = "celery/interop.rs"]
mod interop;
#[path = "celery/malformed.rs"]
mod malformed;
#[path = "celery/outage.rs"]
mod outage;
#[path = "celery/publish.rs"]
mod publish;
#[path = "celery/queues.rs"]
mod queues;
#[path = "celery/restore.rs"]
mod restore;
#[path = "celery/results.rs"]
mod results;
#[path = "celery/scene.rs"]
mod scene;
#[path = "celery/server.rs"]
mod server;
#[path = "celery/wrong_type.rs"]
mod wrong_type;
