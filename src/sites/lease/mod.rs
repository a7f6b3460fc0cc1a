//! One run at a site at a time, also across hosts: a lease per site in the broker that they share.
//!
//! Not the locks of the state directory (`claim`), which know one machine only.
//!
//! **Scope.** The lease stands in the broker's database, as `orch:<instance>:lease:<site>`: where the site's tasks wait.
//! What shares a broker and an `[orch] instance` excludes each other, be it on two hosts or in two state directories of
//! one; `instance` has the same default everywhere, and is what keeps two projects on one broker apart.
//!
//! **Value.** JSON: the fencing token, which rises with each taking, and who holds it. The last token is kept beside the
//! lease (`...:token`, 30 days); it is never below the server's clock in seconds, so that it rises even over a loss of the
//! data. Every change is a script that compares the whole value first: nobody renews or gives back another's.
//!
//! **Validity.** The holder counts from before it asked, on a clock that goes on while the machine sleeps. It renews every
//! third of the lease, then more often; when it has no answer until a sixth before the end, it stops the site's work
//! (`under_lease`) in that sixth. One that was stopped beyond the end and wakes up asks first: the script tells whether
//! anybody has had the lease since (by the token), and if not, it is simply taken again. The same holds for a Redis that
//! lost the lease with its data.
//!
//! **A Redis that is away.** Tasks wait in that very Redis. Is it down, nobody takes the lease and no worker takes a task.
//! Are only we cut off, then others may take the lease when it has ended, and what we cannot revoke goes on: therefore
//! the ids of the work's first tasks stand beside the lease (`...:work`) until it is given back, and whoever takes a lease
//! that was not, ends that work before its own. What is left is a task that runs in a worker which is cut off from Redis
//! too: it ends with the run that owns the worker, or by itself; only the fencing token can keep its writes out.
//!
//! A Redis that orch has started itself listens on the loopback of the host that runs it: when we cannot reach it nobody
//! can, and an outage of any length is waited out. It has leases all the same, since without a password
//! (`auth = false`) another run may use it.
//!
//! **Completion.** Who gives a lease back at the end of a site that is complete leaves that beside it (`...:completed`, a day),
//! with its token. A run that had lost the lease and gets it again finds by the token whether the site was completed since:
//! then it does not do it again.
//!
//! **Death.** A lease names the lock file of the state directory that its run holds (by the kernel's boot, device and
//! inode). Whoever holds that very lock now knows that the other is dead, its guard and services included, and takes the
//! lease over at once. Everybody else waits for its end.

mod holder;
mod keeper;
mod moment;
mod store;
mod validity;

pub use holder::{Holder, Occupant};
pub use keeper::{Lease, Leases, Refused};
pub use store::{Completed, Completion, LeaseStore};
pub use validity::{Loss, Outage, Terms};
