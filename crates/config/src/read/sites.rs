//! `[sites."<name>"]` over `[sites.defaults]`, and the sites of `sites_file` over the same defaults.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::item::{ConfigItem, has_valid_name};
use super::load_context::{LoadContext, SiteDependency};
use super::section::Section;
use crate::check::templates;
use crate::check::templates::KnownNames;
use crate::model::{
    DegradedAction, LossAction, MinResults, SiteConfig, SiteDependencies, SiteDependencyKind, SiteTimeout, TaskCall,
};
use crate::syntax::problem::{Problem, did_you_mean};
use crate::syntax::source::SourceSpan;
use crate::syntax::tree::{SyntaxNode, SyntaxTable, SyntaxValue};
use orch_base::names::SiteName;

use super::health;
use super::own_worker::own_worker;
use super::task;

/// Names that orch fills in itself. A key prefix belongs to the job and does not depend on the fencing token.
const IN_ARGUMENTS: [&str; 4] = ["site", "start_urls", "job_id", "fencing_token"];
const IN_KEYS: [&str; 3] = ["site", "start_urls", "job_id"];

/// Number of sites at most: the first event of a run lists all of them, and each is a separate job.
const MAX_SITES: usize = 20_000;
/// Number of values of all sites together at most, including the defaults, which are part of each site.
const MAX_VALUES: usize = 1_000_000;

/// The sites file.
pub(crate) struct SitesFile {
    pub path: PathBuf,
    /// Names of the sites.
    pub names: HashSet<String>,
    /// Position of the path in the configuration.
    pub at: SourceSpan,
}

/// Reads `[sites]`, in which the sites of the sites file already follow the others.
pub(crate) fn sites(
    reading: &LoadContext,
    sites: &SyntaxTable,
    file: Option<SitesFile>,
    resources: &BTreeMap<String, u32>,
) -> Vec<SiteConfig> {
    let defaults = sites.entry("defaults");
    if let Some((key, node)) = defaults {
        // The defaults are also read alone: their problems are reported once, even if there is no site.
        read(reading, &key.name, node, key.span, None);
    }
    if let Some((key, _)) = sites.entries.get(MAX_SITES) {
        let title = format!("there are more than {MAX_SITES} sites");
        reading.report(Problem::new(title).at(key.span, "exceeds the limit"));
    }
    let mut found = Vec::new();
    let mut values = 0;
    for (key, node) in sites.entries.iter().take(MAX_SITES) {
        if key.name == "defaults" {
            continue;
        }
        if !has_valid_name(reading, "a site", key) {
            continue;
        }
        let mut merged = SyntaxNode::table(Vec::new(), node.span);
        if let Some((_, defaults)) = defaults
            && matches!(defaults.value, SyntaxValue::Table(_))
        {
            merged = defaults.clone();
        }
        merged.merge(node.clone());
        values += merged.count();
        if values > MAX_VALUES {
            let title = format!("all sites together have more than {MAX_VALUES} values, including the defaults");
            reading.report(Problem::new(title).at(key.span, "the limit is exceeded here"));
            break;
        }
        let file = file.as_ref().filter(|file| file.names.contains(&key.name));
        // A key that all sites of the sites file lack is reported once, at the path of the file.
        let at = file.map_or(key.span, |file| file.at);
        let site = read(reading, &key.name, &merged, at, Some(resources));
        found.extend(site.map(|site| SiteConfig {
            sites_file: file.map(|file| file.path.clone()),
            ..site
        }));
    }
    found
}

/// Reads one site. `resources` are those that exist; `None` means that the defaults of all sites are read.
fn read(
    reading: &LoadContext,
    name: &str,
    node: &SyntaxNode,
    at: SourceSpan,
    resources: Option<&BTreeMap<String, u32>>,
) -> Option<SiteConfig> {
    let is_site = resources.is_some();
    let item = ConfigItem {
        reading,
        node,
        path: format!("sites.{name}"),
        pattern: "sites.*".to_owned(),
    };
    let Some(section) = Section::of(&item, at) else {
        return item.wrong("a table");
    };
    let mut dispatch = match is_site {
        true => section.required("dispatch", "\"module.task\"", task::task),
        false => section.read_or("dispatch", TaskCall::default(), task::task),
    };
    let worker = own_worker(&section, name, is_site);
    if let Some(worker) = &worker {
        // A queue in `[sites.defaults]` is only for sites without a worker of their own.
        dispatch.queue = Some(worker.queue.clone());
    }
    let config = section.read_or("config", Map::new(), ConfigItem::json_entries);
    let timeout = section.read_or("timeout", SiteTimeout::Fixed(Duration::from_secs(2 * 60 * 60)), timeout);
    let retries = section.read_or("retries", 0, |item| item.integer(0..=1000));
    let site = SiteConfig {
        name: SiteName::new(name),
        sites_file: None,
        dispatch,
        start_urls: section.read_or("start_urls", Vec::new(), |item| item.list(ConfigItem::line)),
        values: values(config, timeout, retries),
        keys: section.read_or("keys", "scrape_{site}:{job_id}:".to_owned(), ConfigItem::line),
        timeout,
        dynamic_timeout: task::pace(&section),
        retries,
        retry_backoff: section.read_or("retry_backoff", Duration::from_secs(10), ConfigItem::duration),
        dependencies: SiteDependencies {
            after: needed(&section, name, SiteDependencyKind::After, is_site),
            after_any: needed(&section, name, SiteDependencyKind::AfterAny, is_site),
            after_finished: needed(&section, name, SiteDependencyKind::AfterFinished, is_site),
        },
        uses: section.read_or("uses", BTreeMap::new(), |item| uses(item, resources)),
        tags: section.read_or("tags", Vec::new(), |item| item.list(ConfigItem::name)),
        min_results: section.read_or("min_results", MinResults::default(), min_results),
        on_degraded: section.read_or("on_degraded", DegradedAction::default(), health::on_degraded),
        on_lost: section.read_or("on_lost", LossAction::default(), health::on_lost),
        skip_after_failures: section
            .read("skip_after_failures", |item| item.integer(0..=100))
            .filter(|failures| *failures > 0),
        health: health::health(&section),
        worker,
    };
    if is_site {
        check_templates(&section, &site);
    }
    section.finish();
    Some(site)
}

/// Reads a list of sites without duplicates; the dependencies of a site are recorded for the check that needs all
/// sites.
fn needed(section: &Section<'_>, name: &str, kind: SiteDependencyKind, is_site: bool) -> Vec<SiteName> {
    let mut found: Vec<SiteName> = Vec::new();
    let mut recorded = section.reading.site_dependencies.borrow_mut();
    section.read_or(kind.key(), (), |item| {
        for item in item.items()? {
            let Some(needs) = item.line().map(SiteName::new) else {
                continue;
            };
            if found.contains(&needs) {
                continue;
            }
            found.push(needs.clone());
            if is_site {
                let (site, span) = (SiteName::new(name), item.span());
                recorded.push(SiteDependency {
                    site,
                    kind,
                    needs,
                    span,
                });
            }
        }
        Some(())
    });
    found
}

/// Reads units by resource and checks that so much of each resource exists.
fn uses(item: &ConfigItem<'_>, resources: Option<&BTreeMap<String, u32>>) -> Option<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for (key, item) in item.entries()? {
        let Some(units) = item.integer::<u32>(1..=i64::from(u32::MAX)) else {
            continue;
        };
        let problem = match resources.map(|resources| (resources.get(&key.name), resources)) {
            None => None,
            Some((Some(count), _)) if *count >= units => None,
            Some((Some(count), _)) => {
                let title = format!("`{}` is more than exists", item.path);
                Some(item.problem(title, format!("`[resources]` has {count} of `{}`", key.name)))
            }
            Some((None, resources)) => {
                let known = resources.keys().map(String::as_str);
                let label = did_you_mean(&key.name, known, "not in `[resources]`");
                let title = format!("there is no resource `{}`", key.name);
                let help = format!("set the number of units in `[resources]`: `{} = {units}`", key.name);
                Some(Problem::new(title).at(key.span, label).help(help).absence())
            }
        };
        match problem {
            Some(problem) => item.reading.report(problem),
            None => drop(found.insert(key.name.clone(), units)),
        }
    }
    Some(found)
}

/// Reads a number of results, or a share of the usual number.
fn min_results(item: &ConfigItem<'_>) -> Option<MinResults> {
    match &item.node.value {
        SyntaxValue::Text(text) if text.trim().parse::<i64>().is_err() => item.percent().map(MinResults::OfMedian),
        _ => item.integer(0..=i64::MAX).map(MinResults::Count),
    }
}

/// Reads a duration, or `"auto"`.
fn timeout(item: &ConfigItem<'_>) -> Option<SiteTimeout> {
    match &item.node.value {
        SyntaxValue::Text(text) if text == "auto" => Some(SiteTimeout::Auto),
        _ => item.positive_duration().map(SiteTimeout::Fixed),
    }
}

/// Returns the values that a template may use in addition to orch's own: the entries of `config`, then other keys of
/// the site.
fn values(config: Map<String, Json>, timeout: SiteTimeout, retries: u32) -> Map<String, Json> {
    let mut values = Map::new();
    // An automatic timeout is computed later, so templates cannot use the value.
    if let SiteTimeout::Fixed(timeout) = timeout {
        values.insert("timeout".to_owned(), Json::from(timeout.as_secs()));
    }
    values.insert("retries".to_owned(), Json::from(retries));
    values.insert("config".to_owned(), Json::Object(config.clone()));
    values.extend(config);
    values
}

fn check_templates(section: &Section<'_>, site: &SiteConfig) {
    let known = |ours| KnownNames {
        builtin: ours,
        values: &site.values,
    };
    let dispatch = section.item("dispatch");
    let dispatch = dispatch.as_ref().and_then(|item| Section::of(item, item.span()));
    let arguments = dispatch
        .iter()
        .flat_map(|call| [call.item("args"), call.item("kwargs")]);
    for item in arguments.flatten() {
        templates::check(&item, &known(&IN_ARGUMENTS));
    }
    if let Some(item) = section.item("keys") {
        templates::check(&item, &known(&IN_KEYS));
    }
}
