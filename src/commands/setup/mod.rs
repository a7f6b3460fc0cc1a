//! `orch setup`: prints or installs what starts orch without a person: units of systemd, or a line of cron.

mod command;
mod crontab;
mod systemd_unit;

pub use command::{SetupArgs, main};
