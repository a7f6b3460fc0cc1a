//! What following a proxy refresh and following a site's job have in common: dispatch result, chord, progress keys.
//!
//! The stages are a pure function ([`Following`]); [`Follower`] feeds it from Celery and Redis. All jobs that are followed
//! at one time share a [`Desk`].

mod allowance;
mod answer;
mod context;
#[cfg(test)]
mod contract_tests;
mod counts;
mod deaths;
mod desk;
mod end_work;
mod errand;
mod facts;
mod follower;
mod ghosts;
mod header;
mod in_flight;
mod inventory;
mod ledger;
mod loss;
mod machine;
#[cfg(test)]
mod machine_tests;
mod outcome;
#[cfg(test)]
mod outcome_model;
#[cfg(test)]
mod outcome_table;
#[cfg(test)]
mod outcome_tests;
mod pace;
mod pending;
mod pool_stamp;
mod progress;
pub mod progress_keys;
mod publish;
pub(crate) mod python_literal;
mod queue_watch;
mod refresh_asks;
mod remains;
mod stops;
mod template;
mod vitals;

pub use allowance::Allowance;
pub use answer::{DispatchAnswer, Job, callback_counts};
pub use context::{Context, Settled};
pub use counts::merged;
pub use desk::{Desk, Left, Page};
pub use end_work::{Ended, Manner, end_work};
pub use errand::{Ending, Errand, KeysPrefix, Told};
pub use facts::{Fact, Failure, Input, Keys, KeysStatus, Tally, TaskEnd};
pub use follower::Follower;
pub use ghosts::Ghosts;
pub use in_flight::{InFlight, JobInFlight, SiteInFlight};
pub(crate) use in_flight::{KeptDesk, Taken};
pub use machine::{Following, Rules, Stage};
pub use outcome::HeaderLoss;
pub use pace::dynamic_timeout;
pub use pool_stamp::FileStamp;
pub use publish::publish;
pub use refresh_asks::RefreshAsks;
pub use stops::{Asker, Stops};
pub use template::{TemplateError, fill, fill_text, placeholders};
pub use vitals::{AtWork, ChunkEnd, Vital};
