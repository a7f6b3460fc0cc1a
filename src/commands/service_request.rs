//! Requests to services from the command line: sends the request, prints the answer, and follows the effect.

use std::time::Duration;

use clap::Args;

use super::active_run::{ActiveRun, JournalSearch};
use super::output::{print, print_message};
use super::{CommandError, ConfigArgs};
use orch_base::text::duration_text::shown;
use orch_config::{Config, nearest};
use orch_journal::{
    Event, EventKind, ExitStatus, RequestAnswer, RequestResult, RequestVerb, RunCommand, RunOutcome, ServiceName,
    describe_exit,
};
use orch_supervisor::is_site_service;

/// Time in which a run answers a request; usually some milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of all requests to services.
#[derive(Args, Clone, Debug)]
pub struct RequestArgs {
    /// Return after the answer of the run, without waiting for the effect
    #[arg(long)]
    pub no_wait: bool,
    /// Longest wait for the effect
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = super::duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Action that a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceAction {
    Stop,
    Start,
    Restart,
}

impl ServiceAction {
    fn verb(self, service: ServiceName) -> RequestVerb {
        match self {
            Self::Stop => RequestVerb::Stop { service },
            Self::Start => RequestVerb::Start { service },
            Self::Restart => RequestVerb::Restart { service },
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

/// Sends the request, prints the answer and the effect, and returns the exit code.
pub fn request(args: &RequestArgs, action: ServiceAction, name: &str) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let service = ServiceName::from(name);
    let Some(mut run) = ActiveRun::find(&config, RunCommand::Up)? else {
        check_name(&config, action, name)?;
        return nothing(&format!("no run is active in {}", config.orch.state_dir.display()));
    };
    let planned = run.start.services.iter().map(|service| service.name.as_str());
    if !planned.clone().any(|planned| planned == name) && !is_site_service(name) {
        let sites = run.start.sites.iter().map(|site| site.as_str());
        let hint = unknown_name(action, name, planned, sites);
        return Err(CommandError::usage(format!(
            "run {} has no service `{name}`{hint}",
            run.start.run_id
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(args, action, &service, &mut run))
}

async fn follow(
    args: &RequestArgs,
    action: ServiceAction,
    service: &ServiceName,
    run: &mut ActiveRun,
) -> anyhow::Result<u8> {
    if let Err(code) = accepted(run, action.verb(service.clone())).await? {
        return Ok(code);
    }
    let run_id = run.start.run_id.clone();
    if args.no_wait {
        return Ok(RunOutcome::Succeeded.exit_code());
    }
    let mut effect = ServiceEffect {
        action,
        service,
        has_started: false,
    };
    match run.search(args.timeout, |event| effect.of(event)).await? {
        JournalSearch::Found(EffectEnd::Good(text)) => {
            print(&text);
            Ok(RunOutcome::Succeeded.exit_code())
        }
        JournalSearch::Found(EffectEnd::Bad(text)) => {
            print_message(&text);
            Ok(RunOutcome::InfrastructureFailed.exit_code())
        }
        JournalSearch::RunEnded => {
            print_message(&format!("run {run_id} has ended"));
            Ok(RunOutcome::InfrastructureFailed.exit_code())
        }
        JournalSearch::TimedOut => anyhow::bail!(
            "could not see the end of the {} of {service} within {}; the run goes on with it\n  log:   {}",
            action.word(),
            shown(args.timeout),
            run.directory.log(service.as_str()).display()
        ),
    }
}

/// Sends a request and prints the answer. An error has the exit code of a request that is not carried out.
pub async fn accepted(run: &mut ActiveRun, verb: RequestVerb) -> anyhow::Result<Result<(), u8>> {
    let id = run.send(verb)?;
    let run_id = run.start.run_id.clone();
    let answer = match run.answer(&id, ANSWER_TIMEOUT).await? {
        JournalSearch::Found(Some(answer)) => answer,
        JournalSearch::Found(None) => return nothing(&format!("run {run_id} is being stopped")).map(Err),
        JournalSearch::RunEnded => return nothing(&format!("run {run_id} ended before it answered")).map(Err),
        JournalSearch::TimedOut => anyhow::bail!(
            "the run {run_id} has not answered within {}\n  log:   {}",
            shown(ANSWER_TIMEOUT),
            run.directory.orch_log().display()
        ),
    };
    let RequestAnswer { result, detail, .. } = answer;
    match result {
        RequestResult::Done => {
            print(&detail);
            Ok(Ok(()))
        }
        RequestResult::NothingToDo => nothing(&detail).map(Err),
        RequestResult::Refused => {
            print_message(&format!("refused: {detail}"));
            Ok(Err(RunOutcome::SitesFailed.exit_code()))
        }
    }
}

/// Search for the effect of an accepted request in the events after the answer.
struct ServiceEffect<'a> {
    action: ServiceAction,
    service: &'a ServiceName,
    /// A start began after the answer: events before it concern the last process.
    has_started: bool,
}

/// Last event of an effect in words, and whether it is the requested one.
#[derive(Debug, PartialEq, Eq)]
enum EffectEnd {
    Good(String),
    Bad(String),
}

impl ServiceEffect<'_> {
    fn of(&mut self, event: Event) -> Option<EffectEnd> {
        let is_wanted = |service: &ServiceName| service == self.service;
        let stops = self.action == ServiceAction::Stop;
        Some(match event.kind {
            EventKind::ServiceStopped { service, status } if is_wanted(&service) && stops => {
                EffectEnd::Good(match status {
                    ExitStatus::Unknown => format!("{service} is down"),
                    ExitStatus::Code(_) | ExitStatus::Signal { .. } => {
                        format!("{service} has stopped: it {}", describe_exit(status))
                    }
                })
            }
            EventKind::ServiceStarting { service, .. } if is_wanted(&service) => {
                self.has_started = true;
                return None;
            }
            EventKind::ServiceStopped { service, .. } if is_wanted(&service) && self.has_started => {
                EffectEnd::Bad(format!("{service} was stopped again"))
            }
            EventKind::ServiceReady {
                service,
                elapsed_ms,
                detail,
            } if is_wanted(&service) && self.has_started => {
                let elapsed = shown(Duration::from_millis(elapsed_ms));
                EffectEnd::Good(format!("{service} is ready after {elapsed}: {detail}"))
            }
            EventKind::ServiceReused { service, detail } if is_wanted(&service) && self.has_started => {
                EffectEnd::Good(format!("{service} is reused: {detail}"))
            }
            EventKind::ServiceCompleted { service, elapsed_ms } if is_wanted(&service) && self.has_started => {
                let elapsed = shown(Duration::from_millis(elapsed_ms));
                EffectEnd::Good(format!("{service} completed after {elapsed}"))
            }
            EventKind::ServiceFailed { service, reason, log } if is_wanted(&service) => {
                let log = log.map(|log| format!("\n  log:   {}", log.display()));
                EffectEnd::Bad(format!("{service} failed: {reason}{}", log.unwrap_or_default()))
            }
            EventKind::StopStarted { .. } => EffectEnd::Bad(match stops {
                true => format!("the run is being stopped, and {} with it", self.service),
                false => "the run is being stopped".to_owned(),
            }),
            _ => return None,
        })
    }
}

/// Returns an error if the configuration has no such service.
fn check_name(config: &Config, action: ServiceAction, name: &str) -> anyhow::Result<()> {
    let named = config.services.iter().map(|service| service.name.as_str());
    let names = named.chain(["redis", "celery", "beat"]);
    if names.clone().any(|known| known == name) || is_site_service(name) {
        return Ok(());
    }
    let sites = config.sites.iter().map(|site| site.name.as_str());
    let hint = unknown_name(action, name, names, sites);
    let file = config.file.display();
    Err(CommandError::usage(format!("{file} has no service `{name}`{hint}")))
}

/// Returns the hint for a name that is no service.
fn unknown_name<'a>(
    action: ServiceAction,
    name: &str,
    services: impl Iterator<Item = &'a str> + Clone,
    mut sites: impl Iterator<Item = &'a str>,
) -> String {
    if sites.any(|site| site == name) && action == ServiceAction::Stop {
        return format!("\n  hint:  `orch stop site {name}` stops a site");
    }
    let meant = nearest(name, services.clone());
    let meant = meant
        .map(|meant| format!("did you mean `{meant}`? "))
        .unwrap_or_default();
    let services = services.collect::<Vec<_>>().join(", ");
    format!("\n  hint:  {meant}its services: {services}")
}

/// Prints that there is nothing to do, and returns the exit code.
pub fn nothing(reason: &str) -> anyhow::Result<u8> {
    print_message(&format!("nothing to do: {reason}"));
    Ok(RunOutcome::SitesFailed.exit_code())
}
