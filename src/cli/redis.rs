//! `orch redis acl`: what a user of another's Redis must be allowed.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};

use super::ConfigArgs;
use super::output::print;
use crate::config::{Config, RedisMode, RedisUrls};
use crate::run::Outcome;

/// Helps with a Redis of others
#[derive(Args, Debug)]
pub struct RedisArgs {
    #[command(subcommand)]
    command: RedisCommand,
}

#[derive(Subcommand, Debug)]
enum RedisCommand {
    Acl(AclArgs),
}

/// Prints the ACL line of a user for orch and the Celery worker of this configuration; asks no server
#[derive(Args, Debug)]
pub struct AclArgs {
    /// Name of the user [default: the configured one, else orch]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What the app's `broker_transport_options` have as `global_keyprefix`
    #[arg(long, value_name = "PREFIX", default_value = "")]
    key_prefix: String,
    /// The same of its `result_backend_transport_options`
    #[arg(long, value_name = "PREFIX", default_value = "")]
    backend_key_prefix: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Commands of orch; found by trial (`tests/redis_acl.rs`, with Celery 5.4 and 5.7).
const OF_ORCH: &str = "+auth +hello +ping +select +multi +exec +client|tracking +role +info +get +mget +getrange +set +del +unlink \
                       +exists +expire +type +scan +llen +lrange +lpush +rpush +lrem +ltrim +rename +hlen +hget +hmget +hscan \
                       +hdel +hset +zrange +zrem +zadd +zcount +zcard +zrangebyscore +scard +smembers +publish +subscribe +psubscribe +unsubscribe \
                       +punsubscribe +eval +time +incr +pexpire";
/// Those of a Celery worker beside them.
const OF_WORKER: &str = "+brpop +sadd +srem +setex +zrevrangebyscore +evalsha +script|load +script|exists +sismember +watch +unwatch +lpop +rpop +decr \
                         +persist";

/// Runs the subcommand; the exit code.
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
        "# For redis.conf or the file of users; as a command: ACL SETUSER, then the words behind `user`.".to_owned(),
        "# Not in it: keys of the app itself. Add them as `~prefix*`.".to_owned(),
    ];
    if config.redis.mode != RedisMode::External {
        lines.push("# Only for `[redis] mode = \"external\"`: a Redis that orch starts has its users.".to_owned());
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
    Ok(Outcome::Succeeded.exit_code())
}

/// Patterns of all keys that orch and a worker use.
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
    // A queue of a higher priority has it in its name.
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

/// Those of control, events and results. The pattern of events is compared as text with the one that is subscribed to.
fn channels(database: u32, args: &AclArgs) -> [String; 4] {
    let (broker, results) = (&args.key_prefix, &args.backend_key_prefix);
    [
        format!("{broker}/{database}.celery.pidbox"),
        format!("{broker}/{database}.celeryev/*"),
        format!("{results}celery-task-meta-*"),
        format!("{results}celery-taskset-meta-*"),
    ]
}

/// A pattern without the blanks at which Redis divides rules.
fn one_word(pattern: &str) -> String {
    pattern.replace(|letter: char| letter.is_whitespace() || letter.is_control(), "?")
}
