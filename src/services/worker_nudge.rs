//! Workers that are being stopped notice it sooner.
//!
//! Celery's worker looks whether it was asked to stop each time its event loop turns, and where nothing happens that is up
//! to a second after SIGTERM (observed on 5.4). A ping that nobody answers turns it at once; it touches no task, and a
//! worker that has left its loop does not hear it.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::celery::{Client, Target};

/// The guard sends SIGTERM, and the worker's interpreter takes it, within this.
const FIRST_AFTER: Duration = Duration::from_millis(30);
/// Workers may be asked later, when those that depend on them are gone.
const AGAIN_AFTER: Duration = Duration::from_millis(150);
/// For a broker that does not answer.
const DEADLINE: Duration = Duration::from_millis(500);

/// Pings on a thread of its own, as long as this lives and any worker listens.
pub struct WorkerNudge {
    _over: Sender<()>,
}

impl WorkerNudge {
    /// Begins to ping the workers of this client's broker; none where no thread can be had.
    pub fn begin(client: &Client) -> Option<Self> {
        let (endpoints, transport) = (client.endpoints().clone(), client.transport());
        let (over, is_over) = channel::<()>();
        let work = move || {
            // The client's own connections ended with the runtime that they were opened in.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (Ok(runtime), Ok(client)) = (runtime, Client::connect(endpoints)) else {
                return;
            };
            client.use_transport(transport.as_ref().clone());
            let control = client.with_deadline(DEADLINE).control();
            let mut pause = FIRST_AFTER;
            while is_over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                match runtime.block_on(control.ping_without_answer(&Target::All)) {
                    Ok(0) => return,
                    Ok(_) => pause = AGAIN_AFTER,
                    Err(error) => {
                        tracing::debug!(%error, "workers are not told to look at their signals");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("nudge".to_owned()).spawn(work);
        thread.is_ok().then_some(Self { _over: over })
    }
}
