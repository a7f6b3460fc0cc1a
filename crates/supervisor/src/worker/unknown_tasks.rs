//! The error for tasks that a worker does not know, each with the most similar names.

use orch_journal::failure::ServiceFailure;

/// Builds the error for tasks that the worker does not know, each with the most similar names.
pub fn missing_tasks(missing: &[&String], known: &[String]) -> ServiceFailure {
    let mut cause = String::new();
    for task in missing {
        let mut near: Vec<(f64, &String)> = known
            .iter()
            .map(|name| (strsim::jaro_winkler(task, name), name))
            .filter(|(score, _)| *score > 0.7)
            .collect();
        near.sort_by(|one, other| other.0.total_cmp(&one.0));
        let best = near.first().map_or(0.0, |(score, _)| *score);
        // All names of an app are similar if they share a module.
        near.retain(|(score, _)| *score > best - 0.08);
        let near: Vec<String> = near.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
        if !cause.is_empty() {
            cause.push_str("; ");
        }
        cause.push_str(&match near.is_empty() {
            true => format!("`{task}` has no similar name among its {} tasks", known.len()),
            false => format!("nearest to `{task}`: {}", near.join(", ")),
        });
    }
    let names: Vec<String> = missing.iter().map(|task| format!("`{task}`")).collect();
    ServiceFailure::configuration(format!("the worker does not know {}", names.join(", ")))
        .with_cause(cause)
        .hint("correct the name in the configuration, or import the module in the app (`include`, autodiscovery)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_task_names_its_nearest() {
        let known = ["shop.tasks.dispatch_site".to_owned(), "shop.tasks.aggregate".to_owned()];
        let missing = "shop.tasks.dispatch_sites".to_owned();
        let failure = missing_tasks(&[&missing], &known).to_string();
        assert!(
            failure.contains("nearest to `shop.tasks.dispatch_sites`: `shop.tasks.dispatch_site`"),
            "{failure}"
        );
    }
}
