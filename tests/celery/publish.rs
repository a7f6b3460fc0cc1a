//! Publishing and waiting for results.

use orch::celery::{Task, TaskState};
use serde_json::json;

use crate::scene::{Scene, run};

#[test]
fn a_task_is_run_and_its_result_arrives() {
    let scene = Scene::new();
    run(async {
        let task = Task::new("wire_app.add").args([json!(2), json!(3)]);
        let mut watch = scene.client.results().watch(&task.id);
        scene.client.publish(&task).await.expect("Redis is up");
        let result = watch.finished().await.expect("a readable result");
        assert_eq!(result.state, TaskState::Success(json!(5)));
    });
}
