//! `orch redis acl`: prints the permissions that orch and the worker need in an external Redis.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};

use super::ConfigArgs;
use super::output::print;
use orch_config::{Config, RedisMode, RedisUrls};
use orch_journal::RunOutcome;

/// Helps to set up an external Redis
#[derive(Args, Debug)]
pub struct RedisArgs {
    #[command(subcommand)]
    command: RedisCommand,
}

#[derive(Subcommand, Debug)]
enum RedisCommand {
    Acl(AclArgs),
}

/// Prints the ACL line of a Redis user for orch and the Celery worker of this configuration; contacts no server
#[derive(Args, Debug)]
pub struct AclArgs {
    /// Name of the user [default: the configured user, otherwise orch]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Key prefix of the broker: `global_keyprefix` in the app's `broker_transport_options`
    #[arg(long, value_name = "PREFIX", default_value = "")]
    key_prefix: String,
    /// Key prefix of the result backend: `global_keyprefix` in the app's `result_backend_transport_options`
    #[arg(long, value_name = "PREFIX", default_value = "")]
    backend_key_prefix: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Redis commands that orch uses; found by experiment (`tests/redis_acl.rs`, with Celery 5.4 and 5.7).
const OF_ORCH: &str = "+auth +hello +ping +select +multi +exec +client|tracking +role +info +get +mget +getrange +set +del +unlink \
                       +exists +expire +type +scan +llen +lrange +lpush +rpush +lrem +ltrim +rename +hlen +hget +hmget +hscan \
                       +hdel +hset +zrange +zrem +zadd +zcount +zcard +zrangebyscore +scard +smembers +publish +subscribe +psubscribe +unsubscribe \
                       +punsubscribe +eval +time +incr +pexpire";
/// Further Redis commands that a Celery worker uses.
const OF_WORKER: &str = "+brpop +sadd +srem +setex +zrevrangebyscore +evalsha +script|load +script|exists +sismember +watch +unwatch +lpop +rpop +decr \
                         +persist";

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RedisArgs) -> anyhow::Result<u8> {
    let RedisCommand::Acl(args) = &args.command;
    let config = args.config.load(&[])?;
    let broker = config.redis.urls.as_ref().and_then(RedisUrls::broker_parts);
    let configured = match &broker {
        Some(broker) => broker.username.clone(),
        None => config.redis.username.clone(),
    };
    let user = args.user.clone().or(configured).unwrap_or_else(|| "orch".to_owned());
    let database = broker.map_or(config.redis.broker_db, |broker| broker.database);
    let mut lines = vec![
        "# For redis.conf or the ACL file; as a command: ACL SETUSER, followed by the words after `user`.".to_owned(),
        "# Keys of the app itself are not included. Add them as `~prefix*`.".to_owned(),
    ];
    if config.redis.mode != RedisMode::External {
        lines.push(
            "# Only for `[redis] mode = \"external\"`: orch creates the users of a Redis that it starts.".to_owned(),
        );
    }
    let keys: Vec<String> = keys(&config, args)
        .iter()
        .map(|key| format!("~{}", one_word(key)))
        .collect();
    let channels = channels(database, args).map(|channel| format!("&{}", one_word(&channel)));
    lines.push(format!(
        "user {user} on >PASSWORD resetkeys {} resetchannels {} -@all {OF_ORCH} {OF_WORKER}",
        keys.join(" "),
        channels.join(" ")
    ));
    print(&lines.join("\n"));
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Returns the patterns of all keys that orch and a worker use.
fn keys(config: &Config, args: &AclArgs) -> BTreeSet<String> {
    let (broker, results) = (&args.key_prefix, &args.backend_key_prefix);
    let queues = config
        .celery
        .queues
        .iter()
        .map(String::as_str)
        .chain(config.own_queues());
    let called = config
        .sites
        .iter()
        .map(|site| &site.dispatch)
        .chain(&config.proxies.refresh);
    let queues: BTreeSet<&str> = queues.chain(called.filter_map(|call| call.queue.as_deref())).collect();
    let mut keys: BTreeSet<String> = BTreeSet::from(["orch:*".to_owned()]);
    // The list of a queue's higher priority step has the step in its name, so each queue is a pattern.
    keys.extend(queues.iter().map(|queue| format!("{broker}{queue}*")));
    for key in [
        "unacked",
        "unacked_index",
        "unacked_mutex",
        "_kombu.binding*",
        "*.celery.pidbox*",
    ] {
        keys.insert(format!("{broker}{key}"));
    }
    for key in ["celery-task-meta-*", "celery-taskset-meta-*"] {
        keys.insert(format!("{results}{key}"));
    }
    let progress = config
        .sites
        .iter()
        .map(|site| site.keys.replace("{site}", site.name.as_str()));
    let progress = progress.chain(std::iter::once(config.proxies.keys.clone()).filter(|_| config.proxies.enabled));
    keys.extend(progress.map(|prefix| format!("{}*", prefix.replace("{job_id}", "*"))));
    keys
}

/// Returns the patterns of the channels for control commands, events and results. Redis compares the pattern of the
/// events as text with the pattern of the subscription.
fn channels(database: u32, args: &AclArgs) -> [String; 4] {
    let (broker, results) = (&args.key_prefix, &args.backend_key_prefix);
    [
        format!("{broker}/{database}.celery.pidbox"),
        format!("{broker}/{database}.celeryev/*"),
        format!("{results}celery-task-meta-*"),
        format!("{results}celery-taskset-meta-*"),
    ]
}

/// Replaces the characters at which Redis separates ACL rules, so that a pattern stays one rule.
fn one_word(pattern: &str) -> String {
    pattern.replace(|letter: char| letter.is_whitespace() || letter.is_control(), "?")
}
