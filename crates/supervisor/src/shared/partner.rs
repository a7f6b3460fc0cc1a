//! The end of the `orch up` that owns the services of a run.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::instance_file;
use super::instance_file::InstanceFile;
use super::process_watch::ProcessWatch;
use orch_journal::ServiceName;
use orch_journal::failure::ServiceFailure;

/// Interval between two reads of the instance's file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Number of consecutive reads that must miss the file.
const MISSING_READS: u32 = 2;

/// Waits until the partner has ended, begins to stop, or has given up a service that the run needs.
pub async fn until_failed(state_dir: &Path, partner: &InstanceFile) -> ServiceFailure {
    let partner_name = format!(
        "`orch up` (pid {}, run {}), whose services this run uses,",
        partner.pid, partner.run_id
    );
    let ended = || {
        ServiceFailure::infrastructure(format!("{partner_name} has ended"))
            .with_cause("Redis and the workers end with it, so no worker is left for the sites")
    };
    let failure = match ProcessWatch::begin(partner.pid, partner.start_time) {
        None => ended(),
        Some(process) => {
            tokio::select! {
                biased;
                () = process.ended() => ended(),
                given_up = stop_or_given_up(state_dir, partner) => match given_up {
                    None => ServiceFailure::infrastructure(format!("{partner_name} is being stopped"))
                        .with_cause("its workers take no further tasks"),
                    Some(service) => ServiceFailure::infrastructure(format!("{partner_name} has given up `{service}`"))
                        .with_cause("it was restarted as often as its `restart` allows; the output of `orch up` has the reason"),
                },
            }
        }
    };
    failure.hint("start `orch up` again, then continue this run with `orch run --resume`; without `orch up` a run starts services of its own")
}

/// Waits until the instance gives up a service, which the file then names, or begins to stop (`None`) and removes the
/// file. If the whole directory is gone, another program removed it.
async fn stop_or_given_up(state_dir: &Path, partner: &InstanceFile) -> Option<ServiceName> {
    let mut missing = 0;
    while missing < MISSING_READS {
        let is_gone = match instance_file::read(state_dir) {
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
    use orch_celery::TransportSettings;

    use orch_journal::RunId;

    fn partner(start_time: u64) -> InstanceFile {
        InstanceFile {
            run_id: RunId::random(),
            pid: std::process::id().cast_signed(),
            start_time,
            redis: None,
            transport: TransportSettings::default(),
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
        let stranger = partner(orch_base::system::processes::own_start_time() + 1);
        let failure = run(until_failed(directory.path(), &stranger));
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
            ..partner(orch_base::system::processes::own_start_time())
        };
        instance_file::write(directory.path(), &partner).unwrap();
        let text = run(until_failed(directory.path(), &partner)).to_string();
        assert!(text.contains("has given up `celery`"), "{text}");
    }

    #[test]
    fn a_partner_that_removes_its_file_stops_and_a_missing_directory_proves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let partner = partner(orch_base::system::processes::own_start_time());
        let state_dir = directory.path();
        instance_file::write(state_dir, &partner).unwrap();
        run(async {
            let mut watch = std::pin::pin!(until_failed(state_dir, &partner));
            let timeout = Duration::from_millis(2500);
            assert!(tokio::time::timeout(timeout, &mut watch).await.is_err(), "it is up");
            instance_file::remove(state_dir, &partner.run_id).unwrap();
            assert!(
                tokio::time::timeout(timeout, &mut watch).await.is_err(),
                "no instance was ever here"
            );
            std::fs::write(state_dir.join("services.lock"), "").unwrap();
            assert!(watch.await.to_string().contains("is being stopped"));
        });
    }
}
