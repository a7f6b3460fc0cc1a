//! Remaining work of a job, as a search finds it.

/// Remaining work of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemainingWork {
    Something,
    /// Two looks found nothing.
    Nothing,
    /// A place could not be searched, for this reason.
    Unsure(String),
    /// All remaining messages wait in queues that no worker consumes, and no worker has come to consume them; the text
    /// names the queues.
    Unconsumed(String),
}
