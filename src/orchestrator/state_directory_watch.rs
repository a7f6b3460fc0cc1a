//! Detection of a lost state directory: a cleaner of temporary files, a `git clean` or a mistyped `rm` may remove the
//! directory of a running instance, and another directory may replace it.

use std::convert::Infallible;
use std::fs::{self, Metadata};
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use orch_base::files::inotify::InotifyWatches;
use orch_journal::{PathChange, StateDirectoryLoss};

/// Identities of the directories and files of one run at its begin.
#[derive(Clone, Debug)]
pub struct StateDirectoryWatch {
    state_dir: PathBuf,
    /// Paths with their device and inode; the state directory comes first.
    known: Vec<(PathBuf, u64, u64)>,
}

impl StateDirectoryWatch {
    /// Records the identities of the state directory and of these entries.
    ///
    /// # Errors
    /// A path does not exist.
    pub fn of(state_dir: &Path, entries: &[PathBuf]) -> io::Result<Self> {
        let mut known = Vec::new();
        for path in [state_dir].into_iter().chain(entries.iter().map(PathBuf::as_path)) {
            let metadata = fs::metadata(path)?;
            known.push((path.to_owned(), metadata.dev(), metadata.ino()));
        }
        Ok(Self {
            state_dir: state_dir.to_owned(),
            known,
        })
    }

    /// Returns the first path that has been removed or replaced.
    pub fn loss(&self) -> Option<StateDirectoryLoss> {
        self.known.iter().find_map(|(path, device, inode)| {
            let is_same = |metadata: &Metadata| (metadata.dev(), metadata.ino()) == (*device, *inode);
            let change = match fs::metadata(path) {
                Ok(metadata) if is_same(&metadata) => return None,
                Ok(_) => PathChange::Replaced,
                Err(error) if error.kind() == io::ErrorKind::NotFound => PathChange::Removed,
                // A temporary error does not mean that the path was removed.
                Err(_) => return None,
            };
            Some(StateDirectoryLoss {
                path: path.clone(),
                change,
                pid: std::process::id().cast_signed(),
            })
        })
    }

    /// Reports the first loss, as soon as it happens; never returns.
    pub async fn watch(self, report: impl FnOnce(StateDirectoryLoss)) -> Infallible {
        match self.events() {
            Ok(events) => while self.loss().is_none() && changed(&events).await.is_ok() {},
            Err(error) => tracing::debug!(%error, "could not watch the state directory"),
        }
        if let Some(loss) = self.loss() {
            report(loss);
        }
        pending().await
    }

    /// Watches removals and renames of the directory and of its entries. The kernel reports the removal of the
    /// directory itself only when no process uses it any more, so the parent directory is watched too.
    fn events(&self) -> io::Result<AsyncFd<InotifyWatches>> {
        let mut watches = InotifyWatches::new()?;
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let resolved = self.state_dir.canonicalize()?;
        watches.add(&resolved, gone | itself)?;
        // If the path is a symbolic link, the link is removed from another parent directory.
        for path in [resolved.as_path(), self.state_dir.as_path()] {
            if let Some(parent) = path.parent() {
                watches.add(parent, gone)?;
            }
        }
        #[expect(
            deprecated,
            reason = "the successor is `unsafe` for types that lie about their descriptor; this one owns it"
        )]
        AsyncFd::new(watches)
    }
}

async fn changed(events: &AsyncFd<InotifyWatches>) -> io::Result<()> {
    loop {
        let mut ready = events.readable().await?;
        match ready.get_inner().read() {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    type LossAction = fn(&Path);

    const LOSSES: [(&str, LossAction, &str, PathChange); 5] = [
        (
            "all",
            |state| fs::remove_dir_all(state).unwrap(),
            "state",
            PathChange::Removed,
        ),
        (
            "replaced",
            |state| {
                fs::rename(state, state.with_file_name("away")).unwrap();
                fs::create_dir(state).unwrap();
            },
            "state",
            PathChange::Replaced,
        ),
        (
            "its entry",
            |state| fs::remove_dir(state.join("run")).unwrap(),
            "run",
            PathChange::Removed,
        ),
        (
            "its parent",
            |state| fs::remove_dir_all(state.parent().unwrap()).unwrap(),
            "state",
            PathChange::Removed,
        ),
        (
            "all but the directory",
            |state| {
                fs::remove_file(state.join("lock")).unwrap();
                fs::remove_dir(state.join("run")).unwrap();
            },
            "lock",
            PathChange::Removed,
        ),
    ];

    #[test]
    fn each_loss_of_the_state_directory_is_reported() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for (what, lose, path, change) in LOSSES {
            let parent = tempfile::tempdir().unwrap();
            let state = parent.path().join("project/state");
            fs::create_dir_all(state.join("run")).unwrap();
            fs::write(state.join("lock"), "").unwrap();
            let presence = StateDirectoryWatch::of(&state, &[state.join("lock"), state.join("run")]).unwrap();
            assert_eq!(presence.loss(), None);
            let (report, reported) = std::sync::mpsc::channel();
            runtime.block_on(async {
                let watching = presence.watch(move |loss| report.send(loss).unwrap());
                let losing = async {
                    // A change that is no loss comes first.
                    fs::write(state.join("temporary"), "").unwrap();
                    fs::remove_file(state.join("temporary")).unwrap();
                    tokio::task::yield_now().await;
                    assert!(reported.try_recv().is_err(), "{what}");
                    lose(&state);
                    loop {
                        if let Ok(loss) = reported.try_recv() {
                            return loss;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                let loss = timeout(Duration::from_secs(10), async {
                    tokio::select! { loss = losing => loss, never = watching => match never {} }
                });
                let loss = loss.await.unwrap_or_else(|_| panic!("{what} is not reported"));
                assert!(loss.path.ends_with(path), "{what}: {loss:?}");
                // A replaced directory is missing for a moment.
                let is_seen_earlier = change == PathChange::Replaced && loss.change == PathChange::Removed;
                assert!(loss.change == change || is_seen_earlier, "{what}: {loss:?}");
            });
        }
    }
}
