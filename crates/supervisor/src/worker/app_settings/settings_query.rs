//! The question to the app for its settings: answered by the cache, or by a child process that imports the app.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cache;
use super::cache::SourceFile;
use super::{AppSettings, interpreter};
use crate::launcher::ProcessLauncher;
use crate::process_name::ProcessName;
use orch_base::files::log_stream::last_lines;
use orch_base::files::regular;
use orch_base::files::tail::last_bytes;
use orch_celery::{Client, ControlTarget, NodeName};
use orch_guard::{SpawnOrder, StopPlan};
use orch_journal::failure::ServiceFailure;
use orch_journal::{AppProblem, EventKind, ExitStatus, Recorder, describe_exit};

/// The program of the child.
const SCRIPT: &str = include_str!("print_settings.py");
/// Prefix of the line that the child prints.
const MARK: &str = "orch-app-settings ";
/// Longest wait for a worker's answer with settings.
const CONF_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of bytes of the child's output that are read, from the end.
const WINDOW: u64 = 4 << 20;
/// Variables that do not concern the app and differ between shells.
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

/// The app, and the start of the worker.
pub struct AppSource {
    /// The `celery` command.
    pub program: PathBuf,
    pub app: String,
    pub directory: PathBuf,
    /// Settings as the worker's command line has them, `name=value`.
    pub settings: Vec<String>,
    /// The environment of the worker.
    pub environment: Vec<(String, String)>,
    /// Variables whose values orch chooses for each run: no app derives a setting from them.
    pub run_variables: Vec<String>,
    /// Longest time for the import: that of the worker's start, which imports the app too.
    pub timeout: Duration,
    /// Log for the child's output.
    pub log: PathBuf,
    /// The file with the saved settings.
    pub cache: PathBuf,
}

/// The result of the question for the app's settings.
#[derive(Clone, Debug)]
pub enum SettingsResult {
    Known(Arc<AppSettings>),
    /// The app could not be asked; the text is the reason.
    Unknown(String),
}

/// A question to an app for its settings; a drop cancels the question.
pub struct SettingsQuery {
    answer: watch::Receiver<Option<SettingsResult>>,
    task: JoinHandle<()>,
}

impl Drop for SettingsQuery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SettingsQuery {
    /// Starts the question, on the current runtime. The client uses the resulting names of keys and channels from the
    /// answer on.
    pub fn start(source: AppSource, launcher: ProcessLauncher, client: Client) -> Self {
        let (sender, answer) = watch::channel(None);
        let task = tokio::spawn(async move {
            let learnt = match ask(&source, &launcher).await {
                Ok(settings) => SettingsResult::Known(Arc::new(AppSettings::read(&settings))),
                Err(why) => {
                    tracing::info!(%why, app = source.app, "the app's transport settings are unknown");
                    SettingsResult::Unknown(why)
                }
            };
            if let SettingsResult::Known(settings) = &learnt {
                client.set_transport(settings.transport.clone());
            }
            sender.send_replace(Some(learnt));
        });
        Self { answer, task }
    }

    /// Waits for the answer.
    pub async fn result(&self) -> SettingsResult {
        let mut answer = self.answer.clone();
        match answer.wait_for(Option::is_some).await {
            Ok(learnt) => learnt.clone(),
            Err(_ended) => None,
        }
        .unwrap_or_else(|| SettingsResult::Unknown("the question was cancelled".to_owned()))
    }
}

impl SettingsQuery {
    /// Waits for the answer and refuses settings that orch cannot support. An app that could not be asked is not
    /// refused: the worker reports the reason.
    ///
    /// # Errors
    /// orch cannot support a setting of the app.
    pub async fn check(&self, app: &str) -> Result<(), ServiceFailure> {
        match self.result().await {
            SettingsResult::Known(settings) => settings.check(app),
            SettingsResult::Unknown(_) => Ok(()),
        }
    }

    /// Returns the reason why the settings are unknown; `None` if they are known.
    pub async fn why_unknown(&self) -> Option<String> {
        match self.result().await {
            SettingsResult::Known(_) => None,
            SettingsResult::Unknown(why) => Some(format!("the transport settings of the app are unknown: {why}")),
        }
    }

    /// Asks the worker for the settings if the app could not be asked. A worker hides the values of names with `key` in
    /// them, such as `global_keyprefix`: a warning names those that the app sets.
    ///
    /// # Errors
    /// orch cannot support a setting of the app.
    pub async fn ask_worker(
        &self,
        client: &Client,
        node: &NodeName,
        app: &str,
        recorder: &Recorder,
    ) -> Result<(), ServiceFailure> {
        let SettingsResult::Unknown(why) = self.result().await else {
            return Ok(());
        };
        let target = ControlTarget::Nodes(vec![node.clone()]);
        let arguments = serde_json::json!({ "with_defaults": false });
        let answer = client.control().call("conf", arguments, &target, CONF_TIMEOUT).await;
        let settings = answer.as_ref().ok().and_then(|replies| replies.of(node));
        let Some(settings) = settings else {
            let app = app.to_owned();
            let problem = AppProblem::SettingsUnknown { app, reason: why };
            recorder.emit(EventKind::AppProblemFound { problem });
            return Ok(());
        };
        let learnt = AppSettings::read(settings);
        learnt.check(app)?;
        let hidden = super::hidden_options(settings);
        if !hidden.is_empty() {
            let problem = AppProblem::SettingsHidden {
                app: app.to_owned(),
                options: hidden,
                reason: why,
            };
            recorder.emit(EventKind::AppProblemFound { problem });
        }
        client.set_transport(learnt.transport);
        Ok(())
    }
}

/// Asks an app for the settings, once.
///
/// # Errors
/// The reason why they are unknown.
pub async fn ask_app(source: &AppSource, launcher: &ProcessLauncher) -> Result<AppSettings, String> {
    Ok(AppSettings::read(&ask(source, launcher).await?))
}

/// The line that the child prints.
#[derive(Deserialize)]
struct PrintedSettings {
    settings: Value,
    files: Option<Vec<SourceFile>>,
}

async fn ask(source: &AppSource, launcher: &ProcessLauncher) -> Result<Value, String> {
    let variable = |name: &str| source.environment.iter().find(|(key, _)| key == name);
    let path = variable("PATH").map_or("/usr/local/bin:/usr/bin:/bin", |(_, value)| value.as_str());
    let interpreter = interpreter::of_program(&source.program, path)
        .ok_or_else(|| format!("no Python interpreter was found for {}", source.program.display()))?;
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
    let name = ProcessName::Command {
        service: "celery",
        purpose: "settings",
    };
    let order = SpawnOrder {
        service: name.to_string(),
        argv,
        environment: source.environment.clone(),
        directory: source.directory.clone(),
        log: source.log.clone(),
        stop: StopPlan::new(u32::MAX, [(nix::libc::SIGKILL, Duration::from_millis(100))]),
    };
    let log = source.log.display();
    match launcher.run_to_end(order, source.timeout).await {
        Ok(ExitStatus::Code(0)) => {}
        Ok(status) => {
            let last = last_lines(&source.log, 1).pop();
            let result = last.map_or_else(
                || describe_exit(status),
                |line| format!("{}: {line}", describe_exit(status)),
            );
            return Err(format!("the import of the app {result} (log: {log})"));
        }
        Err(why) => return Err(format!("the import of the app: {why} (log: {log})")),
    }
    let printed = read_printed(&source.log, begin)
        .ok_or_else(|| format!("the app's process has printed no settings (log: {log})"))?;
    // The app's output during the import may contain secrets. The same output is in the worker's log, so this file is
    // kept only if it explains a failure.
    std::fs::remove_file(&source.log).ok();
    if let Some(files) = printed.files {
        cache::remember(&source.cache, key, files, &printed.settings);
    }
    Ok(printed.settings)
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
    let counts = |name: &String| !VOLATILE.contains(&name.as_str()) && !source.run_variables.contains(name);
    for (name, value) in source.environment.iter().filter(|(name, _)| counts(name)) {
        (name, value).hash(&mut hasher);
    }
    hasher.finish()
}

/// Reads the last line of the child's output with the prefix.
fn read_printed(log: &Path, begin: u64) -> Option<PrintedSettings> {
    let mut file = regular::open(log).ok()?;
    let (_, bytes) = last_bytes(&mut file, begin, WINDOW).ok()?;
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
            run_variables: vec!["REDIS_PORT".to_owned()],
            timeout: Duration::from_secs(1),
            log: "/log".into(),
            cache: "/cache".into(),
        }
    }

    #[test]
    fn values_that_may_determine_a_setting_are_in_the_key() {
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
        // These values differ between starts.
        assert!(!changed(&|source| source.environment[1].1 = "2".to_owned()));
        assert!(!changed(&|source| source.environment[2].1 = "2".to_owned()));
        assert!(!changed(&|source| source.log = "/other".into()));
    }

    #[test]
    fn the_last_marked_line_counts_whatever_the_app_prints() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let printed = |text: &str, begin: u64| {
            std::fs::write(&log, text).expect("written");
            read_printed(&log, begin).map(|line| line.settings)
        };
        let line = "orch-app-settings {\"settings\":{\"a\":1},\"files\":[[\"/a\",1,2,3]]}\n";
        assert_eq!(printed(line, 0), Some(serde_json::json!({"a": 1})));
        assert_eq!(
            printed(&format!("hello\n{line}bye"), 0),
            Some(serde_json::json!({"a": 1}))
        );
        assert_eq!(printed(line, line.len() as u64), None);
        assert_eq!(printed("orch-app-settings {", 0), None);
        assert_eq!(printed("", 0), None);
    }
}
