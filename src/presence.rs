//! Whether the state directory of a running instance is still there: a cleaner of temporary files, a `git clean`, a mistyped
//! `rm` take it away, and another one may take its place.

use std::convert::Infallible;
use std::fs::{self, Metadata};
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use crate::inotify::Watches;

/// The directories and files of one run, as they were when it began.
#[derive(Clone, Debug)]
pub struct Presence {
    state_dir: PathBuf,
    /// Each with its device and inode; the state directory first.
    known: Vec<(PathBuf, u64, u64)>,
}

impl Presence {
    /// Remembers the state directory and these of its entries.
    ///
    /// # Errors
    /// One is not there.
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

    /// Names the first of them that has been removed or replaced.
    pub fn loss(&self) -> Option<String> {
        self.known.iter().find_map(|(path, device, inode)| {
            let is_same = |metadata: &Metadata| (metadata.dev(), metadata.ino()) == (*device, *inode);
            match fs::metadata(path) {
                Ok(metadata) if is_same(&metadata) => None,
                Ok(_) => Some(format!("{} was replaced by another one", path.display())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(format!("{} was removed", path.display()))
                }
                // Not readable for a moment is not removed.
                Err(_) => None,
            }
        })
    }

    /// Reports the first loss, as soon as it happens; never returns.
    pub async fn watch(self, report: impl FnOnce(String)) -> Infallible {
        match self.events() {
            Ok(events) => while self.loss().is_none() && changed(&events).await.is_ok() {},
            Err(error) => tracing::debug!(%error, "the state directory is not watched"),
        }
        if let Some(loss) = self.loss() {
            report(loss);
        }
        pending().await
    }

    /// Removals and renames of the directory, and of what is in it. The kernel reports the directory's own end only when
    /// nobody uses it any more, so its parent is watched too.
    fn events(&self) -> io::Result<AsyncFd<Watches>> {
        let mut watches = Watches::new()?;
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let resolved = self.state_dir.canonicalize()?;
        watches.add(&resolved, gone | itself)?;
        // A link to it is removed from another directory.
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

async fn changed(events: &AsyncFd<Watches>) -> io::Result<()> {
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

    type Lose = fn(&Path);

    const LOSSES: [(&str, Lose, &str); 5] = [
        ("all", |state| fs::remove_dir_all(state).unwrap(), " was removed"),
        (
            "replaced",
            |state| {
                fs::rename(state, state.with_file_name("away")).unwrap();
                fs::create_dir(state).unwrap();
            },
            "state was re",
        ),
        (
            "its entry",
            |state| fs::remove_dir(state.join("run")).unwrap(),
            "run was removed",
        ),
        (
            "its parent",
            |state| fs::remove_dir_all(state.parent().unwrap()).unwrap(),
            " was removed",
        ),
        (
            "all but the directory",
            |state| {
                fs::remove_file(state.join("lock")).unwrap();
                fs::remove_dir(state.join("run")).unwrap();
            },
            "lock was removed",
        ),
    ];

    #[test]
    fn each_way_to_lose_it_is_reported() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for (what, lose, told) in LOSSES {
            let parent = tempfile::tempdir().unwrap();
            let state = parent.path().join("project/state");
            fs::create_dir_all(state.join("run")).unwrap();
            fs::write(state.join("lock"), "").unwrap();
            let presence = Presence::of(&state, &[state.join("lock"), state.join("run")]).unwrap();
            assert_eq!(presence.loss(), None);
            let (report, reported) = std::sync::mpsc::channel();
            runtime.block_on(async {
                let watching = presence.watch(move |loss| report.send(loss).unwrap());
                let losing = async {
                    // What is no loss comes first.
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
                assert!(loss.contains(told), "{what}: {loss}");
            });
        }
    }
}
