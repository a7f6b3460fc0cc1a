//! Exclusive work on a site, also across hosts: one lease per site in the broker that the hosts share.
//!
//! The locks of the state directory exclude only the runs of one machine.
//!
//! **Scope.** The lease is stored in the broker's database as `orch:<instance>:lease:<site>`, where the site's tasks
//! wait. All runs with the same broker and the same `[orch] instance` exclude each other, on two hosts as well as in
//! two state directories of one host. `instance` has the same default everywhere; a different value separates two
//! projects on one broker.
//!
//! **Value.** JSON with the fencing token and the holder. The fencing token grows each time that a run acquires the
//! lease. The last token is stored next to the lease (`...:token`, 30 days). The token is never below the server's
//! clock in seconds, and therefore grows even if Redis loses all data. Every change is a script that first compares the
//! whole value: no run renews or releases the lease of another run.
//!
//! **Validity.** The holder counts from the moment before the request, on a clock that goes on while the machine
//! sleeps. The holder renews the lease every third of the lease's duration, and more often after a failure. Without an
//! answer until a sixth of the duration before the end, the holder stops the site's work within that sixth
//! ([`leased_attempt`](super::leased_attempt)). A holder that was suspended beyond the end asks first: the script finds
//! by the token whether another run has held the lease since then. If not, the lease is acquired again. The same
//! happens if Redis has lost the lease with its data.
//!
//! **Outage of Redis.** The tasks wait in the same Redis. If Redis is down, no run acquires the lease and no worker
//! takes a task. If only this host is cut off, other runs may acquire the lease after the expiry, while tasks that this
//! run cannot revoke go on. Therefore the ids of the work's first tasks are stored next to the lease (`...:work`) until
//! its release, and a run that acquires a lease without a release ends that work before its own. One case remains: a
//! task in a worker that is also cut off from Redis. That task ends with the run that owns the worker, or by itself;
//! only the fencing token can keep its writes out.
//!
//! A Redis that orch has started itself listens on the loopback interface of its host. If this run cannot reach that
//! Redis, no run can, so that an outage of any length is waited out. Sites have leases there as well, because without a
//! password (`auth = false`) another run may use that Redis.
//!
//! **Completion.** A run that releases a lease at the end of a complete site stores the result next to the lease
//! (`...:completed`, one day), with the fencing token. A run that has lost the lease and acquires it again finds by the
//! token whether the site was completed since then. In this case the run does not repeat the work.
//!
//! **Death.** A lease names the lock file of the state directory that its run holds (by boot id, device and inode). A
//! run that holds this lock now knows that the other run is dead, including its guard and services, and acquires the
//! lease at once. All other runs wait until the lease expires.

mod holder;
mod keeper;
mod store;
mod validity;

pub use crate::sites::lease::holder::{LeaseHolder, LeaseOccupant};
pub use crate::sites::lease::keeper::{Lease, LeaseRefusal, Leases};
pub use crate::sites::lease::store::{CompletionRecord, LeaseStore, SiteCompletion};
pub use crate::sites::lease::validity::{LeaseLoss, LeaseTerms, OutagePolicy};
