//! Remote control.

use std::time::Duration;

use orch::celery::Target;

use crate::scene::{Scene, node, run};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_worker_answers_pings_by_broadcast_and_by_name() {
    let scene = Scene::new();
    run(async {
        let control = scene.client.control();
        for target in [Target::All, Target::from(&node()), Target::Glob("w1@*".to_owned())] {
            let replies = control.ping(&target, LIMIT).await.expect("Redis is up");
            assert_eq!(replies.of(&node()), Some(&()), "{replies:?}");
        }
    });
}
