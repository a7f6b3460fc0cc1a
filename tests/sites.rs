//! Sites and proxies followed to their end, with a real Redis and a real Celery worker.

mod support;

#[path = "sites/answers.rs"]
mod answers;
#[path = "sites/canvases.rs"]
mod canvases;
#[path = "sites/dependencies.rs"]
mod dependencies;
#[path = "sites/failures.rs"]
mod failures;
#[path = "sites/fallbacks.rs"]
mod fallbacks;
#[path = "sites/leases.rs"]
mod leases;
#[path = "sites/lost.rs"]
mod lost;
#[path = "sites/proxies.rs"]
mod proxies;
#[path = "sites/registry.rs"]
mod registry;
#[path = "sites/scene.rs"]
mod scene;
#[path = "sites/scheduling.rs"]
mod scheduling;
#[path = "sites/stopping.rs"]
mod stopping;
#[path = "sites/unconsumed.rs"]
mod unconsumed;
