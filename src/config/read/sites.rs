//! `[sites."<name>"]` over `[sites.defaults]`, and the sites of `sites_file` over the same defaults.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::config::item::{Item, bad_name, json};
use crate::config::model::{
    DegradedAction, LossAction, MinResults, Need, SiteConfig, SiteNeeds, SiteTimeout, TaskCall,
};
use crate::config::problem::{Problem, nearest};
use crate::config::section::{Reading, Section, SiteNeed};
use crate::config::source::Span;
use crate::config::templates::{self, Known};
use crate::config::tree::{Node, Table, Value};
use crate::run::SiteName;

use super::health;
use super::own_worker::own_worker;
use super::task;

/// Names that orch fills in itself, in arguments. A prefix is that of the job: the same under any token.
const IN_ARGUMENTS: [&str; 4] = ["site", "start_urls", "job_id", "fencing_token"];
const IN_KEYS: [&str; 3] = ["site", "start_urls", "job_id"];

/// Sites: all are named in the first event of a run, and each is a job of its own.
const MOST: usize = 20_000;
/// Values of all sites together, what they have of the defaults included: a few lines of defaults are in each site.
const MOST_VALUES: usize = 1_000_000;

/// The file of further sites.
pub(in crate::config) struct SitesFile {
    pub path: PathBuf,
    /// Of the sites that it has.
    pub names: HashSet<String>,
    /// Where the configuration names it.
    pub at: Span,
}

/// Reads `[sites]`, in which those of the sites file already stand behind the others.
pub(in crate::config) fn sites(
    reading: &Reading,
    sites: &Table,
    file: Option<SitesFile>,
    resources: &BTreeMap<String, u32>,
) -> Vec<SiteConfig> {
    let defaults = sites.entry("defaults");
    if let Some((key, node)) = defaults {
        // Read by themselves too: what is wrong in them is said once, and also when there is no site.
        read(reading, &key.name, node, key.span, None);
    }
    if let Some((key, _)) = sites.entries.get(MOST) {
        let title = format!("there are more than {MOST} sites");
        reading.report(Problem::new(title).at(key.span, "one too many"));
    }
    let mut found = Vec::new();
    let mut values = 0;
    for (key, node) in sites.entries.iter().take(MOST) {
        if key.name == "defaults" {
            continue;
        }
        if let Some(why) = bad_name(&key.name) {
            let title = format!("a site cannot be named `{}`", key.name);
            reading.report(Problem::new(title).at(key.span, why));
            continue;
        }
        let mut merged = Node::new(Value::Table(Table::default()), node.span);
        if let Some((_, defaults)) = defaults
            && matches!(defaults.value, Value::Table(_))
        {
            merged = defaults.clone();
        }
        merged.merge(node.clone());
        values += merged.count();
        if values > MOST_VALUES {
            let title =
                format!("all sites together have more than {MOST_VALUES} values, those of the defaults included");
            reading.report(Problem::new(title).at(key.span, "up to this one"));
            break;
        }
        let file = file.as_ref().filter(|file| file.names.contains(&key.name));
        // What a whole file of sites lacks is said once, where the configuration names the file.
        let at = file.map_or(key.span, |file| file.at);
        let site = read(reading, &key.name, &merged, at, Some(resources));
        found.extend(site.map(|site| SiteConfig {
            sites_file: file.map(|file| file.path.clone()),
            ..site
        }));
    }
    found
}

/// `resources` are those there are; without them it is no site that is read, but what holds for all.
fn read(
    reading: &Reading,
    name: &str,
    node: &Node,
    at: Span,
    resources: Option<&BTreeMap<String, u32>>,
) -> Option<SiteConfig> {
    let is_site = resources.is_some();
    let item = Item {
        reading,
        node,
        path: format!("sites.{name}"),
        pattern: "sites.*".to_owned(),
    };
    let Some(section) = Section::of(&item, at) else {
        item.wrong("a table");
        return None;
    };
    let dispatch = match is_site {
        true => section.required("dispatch", "\"module.task\"", |item| task::task(item).map(Some)),
        false => section.read("dispatch", |item| task::task(item).map(Some)).flatten(),
    };
    let mut dispatch = dispatch.unwrap_or_else(nothing);
    let worker = own_worker(&section, name, is_site);
    if let Some(worker) = &worker {
        // A queue that is written in `[sites.defaults]` is for those that have no worker of their own.
        dispatch.queue = Some(worker.queue.clone());
    }
    let config = section.or("config", Map::new(), |item| {
        let entries = item.entries()?.into_iter();
        Some(
            entries
                .map(|(key, value)| (key.name.clone(), json(value.node)))
                .collect(),
        )
    });
    let timeout = section.or("timeout", SiteTimeout::Fixed(Duration::from_secs(2 * 60 * 60)), timeout);
    let retries = section.or("retries", 0, |item| item.integer(0..=1000));
    let site = SiteConfig {
        name: SiteName::new(name),
        sites_file: None,
        dispatch,
        start_urls: section.or("start_urls", Vec::new(), |item| item.list(Item::line)),
        values: values(config, timeout, retries),
        keys: section.or("keys", "scrape_{site}:{job_id}:".to_owned(), Item::line),
        timeout,
        pace: task::pace(&section),
        retries,
        retry_backoff: section.or("retry_backoff", Duration::from_secs(10), Item::duration),
        needs: SiteNeeds {
            after: needed(&section, name, Need::After, is_site),
            after_any: needed(&section, name, Need::AfterAny, is_site),
            after_finished: needed(&section, name, Need::AfterFinished, is_site),
        },
        uses: section.or("uses", BTreeMap::new(), |item| uses(item, resources)),
        tags: section.or("tags", Vec::new(), |item| item.list(Item::name)),
        min_results: section.or("min_results", MinResults::default(), min_results),
        on_degraded: section.or("on_degraded", DegradedAction::default(), health::on_degraded),
        on_lost: section.or("on_lost", LossAction::default(), health::on_lost),
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

/// The sites of one list, each once; those of a site are noted for the checks that need all of them.
fn needed(section: &Section<'_>, name: &str, kind: Need, is_site: bool) -> Vec<SiteName> {
    let mut found: Vec<SiteName> = Vec::new();
    let mut noted = section.reading.site_needs.borrow_mut();
    section.or(kind.key(), (), |item| {
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
                noted.push(SiteNeed {
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

/// Units by resource, no more than there are.
fn uses(item: &Item<'_>, resources: Option<&BTreeMap<String, u32>>) -> Option<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for (key, item) in item.entries()? {
        let Some(units) = item.integer::<u32>(1..=i64::from(u32::MAX)) else {
            continue;
        };
        let problem = match resources.map(|resources| (resources.get(&key.name), resources)) {
            None => None,
            Some((Some(count), _)) if *count >= units => None,
            Some((Some(count), _)) => {
                let title = format!("`{}` is more than there are", item.path);
                Some(item.problem(title, format!("`[resources]` has {count} of `{}`", key.name)))
            }
            Some((None, resources)) => {
                let label = match nearest(&key.name, resources.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "not in `[resources]`".to_owned(),
                };
                let title = format!("there is no resource `{}`", key.name);
                let help = format!("`[resources]` says how many there are: `{} = {units}`", key.name);
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

/// A number of results, or a share of the usual.
fn min_results(item: &Item<'_>) -> Option<MinResults> {
    match &item.node.value {
        Value::Text(text) if text.trim().parse::<i64>().is_err() => item.percent().map(MinResults::OfMedian),
        _ => item.integer(0..=i64::MAX).map(MinResults::Count),
    }
}

/// A duration, or `"auto"`.
fn timeout(item: &Item<'_>) -> Option<SiteTimeout> {
    match &item.node.value {
        Value::Text(text) if text == "auto" => Some(SiteTimeout::Auto),
        _ => item.positive_duration().map(SiteTimeout::Fixed),
    }
}

fn nothing() -> TaskCall {
    TaskCall {
        task: String::new(),
        args: Vec::new(),
        kwargs: Map::new(),
        queue: None,
        immutable: false,
    }
}

/// What a template may name besides orch's own: the entries of `config`, then the site's other keys.
fn values(config: Map<String, Json>, timeout: SiteTimeout, retries: u32) -> Map<String, Json> {
    let mut values = Map::new();
    // One that is worked out later is not known to a template.
    if let SiteTimeout::Fixed(timeout) = timeout {
        values.insert("timeout".to_owned(), Json::from(timeout.as_secs()));
    }
    values.insert("retries".to_owned(), Json::from(retries));
    values.insert("config".to_owned(), Json::Object(config.clone()));
    values.extend(config);
    values
}

fn check_templates(section: &Section<'_>, site: &SiteConfig) {
    let known = |ours| Known {
        ours,
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
