//! Asks the app for its settings: from the cache, else a child process that imports it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cache::{self, SourceFile};
use super::{AppSettings, interpreter};
use crate::celery::{Client, NodeName, Target};
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::regular_file;
use crate::run::{EventKind, ExitStatus, Level, Recorder, describe_exit};
use crate::services::failure::Failure;
use crate::services::last_lines;
use crate::services::launcher::Launcher;

/// What the child runs.
const SCRIPT: &str = include_str!("print_settings.py");
/// Begins the line that the child prints.
const MARK: &str = "orch-app-settings ";
/// How long a worker has to say its settings.
const CONF_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the child's output that are read, from the end.
const WINDOW: u64 = 4 << 20;
/// Variables that say nothing about the app and differ from one shell to the next.
const VOLATILE: [&str; 12] = [
    "_",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "TERM",
    "COLUMNS",
    "LINES",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "SSH_AUTH_SOCK",
    "XDG_SESSION_ID",
];

/// The app, and how its worker is started.
pub struct AppSource {
    /// The `celery` command.
    pub program: PathBuf,
    pub app: String,
    pub directory: PathBuf,
    /// Settings as the worker's command line has them, `name=value`.
    pub settings: Vec<String>,
    /// Of the worker.
    pub environment: Vec<(String, String)>,
    /// Variables whose values orch chooses anew for each run: no app makes a setting of them.
    pub of_this_run: Vec<String>,
    /// How long the import may take: as long as the start of the worker, which imports the app too.
    pub timeout: Duration,
    /// Where the child's output goes.
    pub log: PathBuf,
    /// Where settings are remembered.
    pub cache: PathBuf,
}

/// Whether the app's settings are known.
#[derive(Clone, Debug)]
pub enum Learnt {
    Known(Arc<AppSettings>),
    /// The app could not be asked; in words why.
    Unknown(String),
}

/// Asks an app for its settings; dropping it ends the question.
pub struct Learner {
    answer: watch::Receiver<Option<Learnt>>,
    task: JoinHandle<()>,
}

impl Drop for Learner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Learner {
    /// Begins to ask, on the current runtime. The client names keys and channels accordingly from the answer on.
    pub fn start(source: AppSource, launcher: Launcher, client: Client) -> Self {
        let (sender, answer) = watch::channel(None);
        let task = tokio::spawn(async move {
            let learnt = match ask(&source, &launcher).await {
                Ok(settings) => Learnt::Known(Arc::new(AppSettings::read(&settings))),
                Err(why) => {
                    tracing::info!(%why, app = source.app, "the app's transport settings are not known");
                    Learnt::Unknown(why)
                }
            };
            if let Learnt::Known(settings) = &learnt {
                client.use_transport(settings.transport.clone());
            }
            sender.send_replace(Some(learnt));
        });
        Self { answer, task }
    }

    /// Waits for the answer.
    pub async fn learnt(&self) -> Learnt {
        let mut answer = self.answer.clone();
        match answer.wait_for(Option::is_some).await {
            Ok(learnt) => learnt.clone(),
            Err(_ended) => None,
        }
        .unwrap_or_else(|| Learnt::Unknown("the question was given up".to_owned()))
    }
}

impl Learner {
    /// Waits for the answer and refuses what orch cannot follow. An app that could not be asked is not refused: its worker
    /// says why.
    ///
    /// # Errors
    /// A setting of the app cannot be followed.
    pub async fn check(&self, app: &str) -> Result<(), Failure> {
        match self.learnt().await {
            Learnt::Known(settings) => settings.check(app),
            Learnt::Unknown(_) => Ok(()),
        }
    }

    /// Says why the settings are not known; `None`: they are.
    pub async fn why_unknown(&self) -> Option<String> {
        match self.learnt().await {
            Learnt::Known(_) => None,
            Learnt::Unknown(why) => Some(format!("the transport settings of the app are not known: {why}")),
        }
    }

    /// Asks the worker for the settings where the app could not be asked. It hides the values of
    /// names with `key` in them, such as `global_keyprefix`: a warning names those that the app sets.
    ///
    /// # Errors
    /// A setting of the app cannot be followed.
    pub async fn ask_worker(
        &self,
        client: &Client,
        node: &NodeName,
        app: &str,
        recorder: &Recorder,
    ) -> Result<(), Failure> {
        let Learnt::Unknown(why) = self.learnt().await else {
            return Ok(());
        };
        let target = Target::Nodes(vec![node.clone()]);
        let arguments = serde_json::json!({ "with_defaults": false });
        let answer = client.control().call("conf", arguments, &target, CONF_TIMEOUT).await;
        let settings = answer.as_ref().ok().and_then(|replies| replies.of(node));
        let Some(settings) = settings else {
            let message = format!(
                "the transport settings of the app `{app}` are not known; Celery's defaults are used\n  cause: {why}"
            );
            let level = Level::Warning;
            recorder.emit(EventKind::Noticed { level, message });
            return Ok(());
        };
        let learnt = AppSettings::read(settings);
        learnt.check(app)?;
        let hidden = super::hidden_options(settings);
        if !hidden.is_empty() {
            let message = format!(
                "the app `{app}` sets {}, and its worker does not say to which value; Celery's default is used\n  cause: \
                 {why}\n  hint:  let `[celery] program` be the `celery` command next to the app's Python",
                hidden.join(", ")
            );
            let level = Level::Warning;
            recorder.emit(EventKind::Noticed { level, message });
        }
        client.use_transport(learnt.transport);
        Ok(())
    }
}

/// Asks an app for its settings, once.
///
/// # Errors
/// Why they are not known.
pub async fn ask_app(source: &AppSource, launcher: &Launcher) -> Result<AppSettings, String> {
    Ok(AppSettings::read(&ask(source, launcher).await?))
}

/// The line that the child prints.
#[derive(Deserialize)]
struct Told {
    settings: Value,
    files: Option<Vec<SourceFile>>,
}

async fn ask(source: &AppSource, launcher: &Launcher) -> Result<Value, String> {
    let variable = |name: &str| source.environment.iter().find(|(key, _)| key == name);
    let path = variable("PATH").map_or("/usr/local/bin:/usr/bin:/bin", |(_, value)| value.as_str());
    let interpreter = interpreter::of_program(&source.program, path)
        .ok_or_else(|| format!("no Python interpreter is found for {}", source.program.display()))?;
    let key = key(source, &interpreter);
    if let Some(settings) = cache::find(&source.cache, key) {
        return Ok(settings);
    }
    let begin = std::fs::metadata(&source.log).map_or(0, |log| log.len());
    let mut argv: Vec<String> = vec![
        interpreter.to_string_lossy().into_owned(),
        "-c".into(),
        SCRIPT.into(),
        source.program.to_string_lossy().into_owned(),
        source.app.clone(),
    ];
    argv.extend(source.settings.iter().cloned());
    let order = SpawnOrder {
        // The colon says that it is no service.
        service: "celery:settings".to_owned(),
        argv,
        environment: source.environment.clone(),
        directory: source.directory.clone(),
        log: source.log.clone(),
        stop: StopPlan {
            rank: u32::MAX,
            steps: vec![StopStep {
                signal: nix::libc::SIGKILL,
                grace: Duration::from_millis(100),
            }],
        },
    };
    let log = source.log.display();
    match launcher.run_to_end(order, source.timeout).await {
        Ok(ExitStatus::Code(0)) => {}
        Ok(status) => {
            let last = last_lines(&source.log, 1).pop();
            let said = last.map_or_else(
                || describe_exit(status),
                |line| format!("{}: {line}", describe_exit(status)),
            );
            return Err(format!("the import of the app {said} (log: {log})"));
        }
        Err(why) => return Err(format!("the import of the app: {why} (log: {log})")),
    }
    let told = read_told(&source.log, begin)
        .ok_or_else(|| format!("the app's process has printed no settings (log: {log})"))?;
    // What the app prints at its import stands in the worker's log, too, and may be secret: it is kept only where it explains
    // a failure.
    std::fs::remove_file(&source.log).ok();
    if let Some(files) = told.files {
        cache::remember(&source.cache, key, files, &told.settings);
    }
    Ok(told.settings)
}

fn key(source: &AppSource, interpreter: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        SCRIPT,
        interpreter,
        &source.program,
        &source.app,
        &source.directory,
        &source.settings,
    )
        .hash(&mut hasher);
    let counts = |name: &String| !VOLATILE.contains(&name.as_str()) && !source.of_this_run.contains(name);
    for (name, value) in source.environment.iter().filter(|(name, _)| counts(name)) {
        (name, value).hash(&mut hasher);
    }
    hasher.finish()
}

/// Reads the last line of the child's output that has the mark.
fn read_told(log: &Path, begin: u64) -> Option<Told> {
    let mut file = regular_file::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(begin.max(length.saturating_sub(WINDOW))))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes).ok()?;
    let line = bytes
        .split(|byte| *byte == b'\n')
        .rev()
        .find_map(|line| line.strip_prefix(MARK.as_bytes()))?;
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> AppSource {
        AppSource {
            program: "/venv/bin/celery".into(),
            app: "shop".to_owned(),
            directory: "/srv/shop".into(),
            settings: Vec::new(),
            environment: vec![
                ("SHOP_PREFIX".to_owned(), "a".to_owned()),
                ("REDIS_PORT".to_owned(), "1".to_owned()),
                ("SHLVL".to_owned(), "1".to_owned()),
            ],
            of_this_run: vec!["REDIS_PORT".to_owned()],
            timeout: Duration::from_secs(1),
            log: "/log".into(),
            cache: "/cache".into(),
        }
    }

    #[test]
    fn what_may_decide_about_a_setting_is_in_the_key() {
        let python = Path::new("/venv/bin/python");
        let usual = key(&source(), python);
        let changed = |change: &dyn Fn(&mut AppSource)| {
            let mut source = source();
            change(&mut source);
            key(&source, python) != usual
        };
        assert!(changed(&|source| source.app = "other".to_owned()));
        assert!(changed(&|source| source.directory = "/srv".into()));
        assert!(changed(&|source| source.program = "/other/celery".into()));
        assert!(changed(&|source| source.settings.push("a=1".to_owned())));
        assert!(changed(&|source| source.environment[0].1 = "b".to_owned()));
        assert!(changed(&|source| source
            .environment
            .push(("NEW".to_owned(), String::new()))));
        assert!(key(&source(), Path::new("/usr/bin/python")) != usual);
        // These differ at every start.
        assert!(!changed(&|source| source.environment[1].1 = "2".to_owned()));
        assert!(!changed(&|source| source.environment[2].1 = "2".to_owned()));
        assert!(!changed(&|source| source.log = "/other".into()));
    }

    #[test]
    fn the_last_marked_line_counts_whatever_the_app_prints() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let told = |text: &str, begin: u64| {
            std::fs::write(&log, text).expect("written");
            read_told(&log, begin).map(|told| told.settings)
        };
        let line = "orch-app-settings {\"settings\":{\"a\":1},\"files\":[[\"/a\",1,2,3]]}\n";
        assert_eq!(told(line, 0), Some(serde_json::json!({"a": 1})));
        assert_eq!(told(&format!("hello\n{line}bye"), 0), Some(serde_json::json!({"a": 1})));
        assert_eq!(told(line, line.len() as u64), None);
        assert_eq!(told("orch-app-settings {", 0), None);
        assert_eq!(told("", 0), None);
    }
}
