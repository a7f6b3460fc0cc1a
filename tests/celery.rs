//! The Celery client against a real Redis and a real Celery worker.

mod support;

#[path = "celery/control.rs"]
mod control;
#[path = "celery/publish.rs"]
mod publish;
#[path = "celery/scene.rs"]
mod scene;
