//! The end of a command that follows something: a signal of the user, or a reader of the output that has gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Signals with which a user ends a command that follows something.
pub struct InterruptSignals(UnixStream);

impl InterruptSignals {
    /// Starts to listen; from now on the signals do not end the process. Needs a tokio runtime.
    ///
    /// # Errors
    /// The signals cannot be registered.
    pub fn listen() -> io::Result<Self> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        receiver.set_nonblocking(true)?;
        Ok(Self(UnixStream::from_std(receiver)?))
    }

    /// Waits for a signal.
    pub async fn received(&mut self) {
        // Cannot fail: the handlers keep the other end open for ever.
        self.0.readable().await.ok();
    }
}

/// End of following: a signal, or a closed pipe.
pub struct FollowEnd {
    signals: InterruptSignals,
    /// Standard output, if the kernel reports the end of the reader.
    output: Option<AsyncFd<OwnedFd>>,
}

impl FollowEnd {
    /// Starts to listen. Needs a tokio runtime.
    ///
    /// # Errors
    /// The signals cannot be registered.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            signals: InterruptSignals::listen()?,
            // Fails for a regular file, which has no reader.
            output: watch_output().ok(),
        })
    }

    /// Waits for the end.
    pub async fn come(&mut self) {
        let Some(output) = &self.output else {
            return self.signals.received().await;
        };
        tokio::select! {
            () = self.signals.received() => {}
            // An error of the watch ends it, too: without a reader nothing is left to do.
            _ = output.ready(Interest::ERROR) => {}
        }
    }
}

fn watch_output() -> io::Result<AsyncFd<OwnedFd>> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    #[expect(
        deprecated,
        reason = "the replacement is `unsafe` because a type may return a wrong descriptor; `OwnedFd` does not"
    )]
    AsyncFd::with_interest(output, Interest::ERROR)
}
