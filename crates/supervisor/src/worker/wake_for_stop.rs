//! A ping that makes workers notice their stop sooner.
//!
//! Celery's worker checks for a stop each time its event loop turns; on an idle worker that is up to a second after
//! SIGTERM (observed on 5.4). A ping without a reply turns the loop at once. The ping touches no task, and a worker
//! that has left its loop does not receive the ping.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use orch_celery::{Client, ControlTarget};

/// Delay in which the guard sends SIGTERM and the worker's interpreter receives it.
const FIRST_PING_DELAY: Duration = Duration::from_millis(30);
/// Interval of later pings: workers may be stopped later, after the services that depend on them.
const PING_INTERVAL: Duration = Duration::from_millis(150);
/// Longest wait for a broker that does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A thread that sends pings as long as this value lives and a worker listens.
pub struct StopPing {
    _stop: Sender<()>,
}

impl StopPing {
    /// Begins to ping the workers of this client's broker; returns `None` if no thread can be started.
    pub fn begin(client: &Client) -> Option<Self> {
        let (endpoints, transport) = (client.endpoints().clone(), client.transport());
        let (stop, stopped) = channel::<()>();
        let work = move || {
            // The client's own connections ended with the runtime in which they were opened.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (Ok(runtime), Ok(client)) = (runtime, Client::connect(endpoints)) else {
                return;
            };
            client.set_transport(transport.as_ref().clone());
            let control = client.with_deadline(ANSWER_TIMEOUT).control();
            let mut delay = FIRST_PING_DELAY;
            while stopped.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
                match runtime.block_on(control.ping_without_reply(&ControlTarget::All)) {
                    Ok(0) => return,
                    Ok(_) => delay = PING_INTERVAL,
                    Err(error) => {
                        tracing::debug!(%error, "could not wake the workers for their stop");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("nudge".to_owned()).spawn(work);
        thread.is_ok().then_some(Self { _stop: stop })
    }
}
