//! The example of the crate with a real worker.

use serde_json::json;

use crate::scene::{Scene, run};

#[expect(dead_code, reason = "its `main` is a program's")]
#[path = "../../crates/celery/examples/publish.rs"]
mod publish;

#[test]
fn the_example_of_the_crate_publishes_and_waits() {
    let scene = Scene::new();
    let (broker, backend) = (scene.redis.url(0), scene.redis.url(1));
    let answer = publish::publish_and_wait([&broker, &backend], "wire_app.add", vec![json!(2), json!(3)]);
    assert_eq!(run(answer).expect("the worker answers"), 5);
}
