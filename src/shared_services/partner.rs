//! The end of the `orch up` whose services a run uses.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::process_watch::ProcessWatch;
use crate::instance::{self, InstanceFile};
use crate::run::ServiceName;
use crate::services::Failure;

/// From one look at the instance's file to the next.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Looks in a row that must find the file gone.
const LOOKS: u32 = 2;

/// Waits until the partner has ended, begins to stop, or has given up a service that the run needs.
pub async fn failed(state_dir: &Path, partner: &InstanceFile) -> Failure {
    let whose = format!(
        "`orch up` (pid {}, run {}), whose services this run uses,",
        partner.pid, partner.run_id
    );
    let ended = || {
        Failure::infrastructure(format!("{whose} has ended"))
            .because("Redis and the workers end with it: nobody works on the sites any more")
    };
    let failure = match ProcessWatch::begin(partner.pid, partner.start_time) {
        None => ended(),
        Some(process) => {
            tokio::select! {
                biased;
                () = process.ended() => ended(),
                given_up = fails(state_dir, partner) => match given_up {
                    None => Failure::infrastructure(format!("{whose} is being stopped"))
                        .because("its workers take no further tasks"),
                    Some(service) => Failure::infrastructure(format!("{whose} has given up `{service}`"))
                        .because("it was restarted as often as its `restart` allows; the output of `orch up` has the reason"),
                },
            }
        }
    };
    failure.hint("start `orch up` again, then continue this run with `orch run --resume`; without `orch up` a run starts services of its own")
}

/// Waits until the instance gives up a service, which it writes into its file, or begins to stop (`None`): then it removes its
/// file. A directory that is gone as a whole was removed by somebody else.
async fn fails(state_dir: &Path, partner: &InstanceFile) -> Option<ServiceName> {
    let mut missing = 0;
    while missing < LOOKS {
        let is_gone = match instance::read(state_dir) {
            Ok(Some(file)) if file.run_id == partner.run_id => match file.given_up.into_iter().next() {
                Some(service) => return Some(service),
                None => false,
            },
            Ok(Some(_)) => true,
            Ok(None) => state_dir.join("services.lock").exists(),
            Err(_) => false,
        };
        missing = if is_gone { missing + 1 } else { 0 };
        sleep(POLL_INTERVAL).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::celery::Transport;
    use crate::guard;
    use crate::run::RunId;

    fn partner(start_time: u64) -> InstanceFile {
        InstanceFile {
            run_id: RunId::random(),
            pid: std::process::id().cast_signed(),
            start_time,
            redis: None,
            transport: Transport::default(),
            ports: BTreeMap::new(),
            given_up: Vec::new(),
        }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.unwrap() })
    }

    #[test]
    fn a_partner_that_ended_before_it_was_watched_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let stranger = partner(guard::own_start_time() + 1);
        let failure = run(failed(directory.path(), &stranger));
        let text = failure.to_string();
        assert!(
            text.contains(&format!("pid {}", stranger.pid)) && text.contains("has ended"),
            "{text}"
        );
        assert!(text.contains("orch run --resume"), "{text}");
    }

    #[test]
    fn a_partner_names_the_service_that_it_has_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let partner = InstanceFile {
            given_up: vec!["celery".into()],
            ..partner(guard::own_start_time())
        };
        instance::write(directory.path(), &partner).unwrap();
        let text = run(failed(directory.path(), &partner)).to_string();
        assert!(text.contains("has given up `celery`"), "{text}");
    }

    #[test]
    fn a_partner_that_takes_its_file_away_stops_and_a_directory_that_is_gone_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let partner = partner(guard::own_start_time());
        let state_dir = directory.path();
        instance::write(state_dir, &partner).unwrap();
        run(async {
            let mut watch = std::pin::pin!(failed(state_dir, &partner));
            let patience = Duration::from_millis(2500);
            assert!(tokio::time::timeout(patience, &mut watch).await.is_err(), "it is up");
            instance::remove(state_dir, &partner.run_id).unwrap();
            assert!(
                tokio::time::timeout(patience, &mut watch).await.is_err(),
                "no instance was ever here"
            );
            std::fs::write(state_dir.join("services.lock"), "").unwrap();
            assert!(watch.await.to_string().contains("is being stopped"));
        });
    }
}
