//! What following a proxy refresh and following a site's job have in common: dispatch result, chord, progress keys.

mod answer;
mod counts;
mod facts;
mod machine;
#[cfg(test)]
mod machine_tests;
mod pace;
mod python_literal;
mod template;

pub use answer::{DispatchAnswer, Job, callback_counts};
pub use counts::merged;
pub use facts::{Fact, Failure, Input, Keys, KeysStatus, Tally, TaskEnd};
pub use machine::{Following, Rules, Stage};
pub use pace::dynamic_timeout;
pub use template::{TemplateError, fill, fill_text, placeholders};
