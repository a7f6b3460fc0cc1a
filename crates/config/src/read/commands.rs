//! Reader of commands: a program, which is searched for, and its arguments.

use std::path::{Path, PathBuf};

use super::item::ConfigItem;
use crate::check::programs::ServiceEnvironment;
use crate::syntax::tree::SyntaxValue;

/// Context in which the commands of one service run.
pub(crate) struct CommandReader<'s> {
    pub surroundings: &'s ServiceEnvironment<'s>,
    pub directory: &'s Path,
}

impl CommandReader<'_> {
    /// Reads a program and its arguments; the program is searched for and made absolute.
    pub fn argv(&self, item: &ConfigItem<'_>) -> Option<Vec<String>> {
        if let SyntaxValue::Text(line) = &item.node.value {
            let for_shell = line.contains(['|', '>', '<', '&', ';', '$', '*', '`', '"', '\'', '\\', '~']);
            let words: Vec<&str> = match for_shell {
                true => vec!["sh", "-c", line],
                false => line.split_whitespace().collect(),
            };
            let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            let key = item.path.rsplit('.').next().unwrap_or_default();
            let problem = item.problem(
                format!("`{}` must be a list", item.path),
                "this is a string; orch does not use a shell",
            );
            let problem = problem.help(format!("write `{key} = [{}]`", words.join(", ")));
            return item.report(problem);
        }
        let words = item.items()?;
        let Some(program) = words.first() else {
            return item.refuse(format!("`{}` is empty", item.path), "the program is missing");
        };
        let found = self.surroundings.program(program, self.directory);
        let rest = words.iter().skip(1).map(ConfigItem::scalar_text);
        let found = found.map(|path: PathBuf| path.to_string_lossy().into_owned());
        std::iter::once(found).chain(rest).collect()
    }
}
