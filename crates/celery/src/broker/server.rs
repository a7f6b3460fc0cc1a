//! Redis server of the broker: pings, INFO, the append-only file.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::error::Result;
use crate::redis::server_info::{ServerInfo, info_fields};

impl Client {
    /// Sends one PING to the broker and returns how long the answer took. Does not wait for a server that is
    /// unreachable.
    pub async fn ping_redis(&self) -> Result<Duration> {
        let started = Instant::now();
        let ping: Result<()> = self
            .broker()
            .query_if_reachable("ping Redis", redis::pipe().cmd("PING").ignore(), self.deadline())
            .await;
        ping.map(|()| started.elapsed())
    }

    /// Sends one PING to the broker and one to the result backend, or only one PING if both have the same address. Does
    /// not wait for a server that is unreachable.
    pub async fn ping_servers(&self) -> Result<()> {
        self.ping_redis().await?;
        if self.endpoints().backend.address == self.endpoints().broker.address {
            return Ok(());
        }
        let ping = redis::pipe().cmd("PING").ignore().to_owned();
        self.backend()
            .query_if_reachable("ping Redis", &ping, self.deadline())
            .await
    }

    /// Reads the server information of the broker. Does not wait for a server that is unreachable. A server that is
    /// still loading its data answers, too.
    pub async fn server_info(&self) -> Result<ServerInfo> {
        Ok(ServerInfo::read(&self.info("default").await?))
    }

    /// Starts the rewrite of the broker's append-only file in the background. The new file contains the current data
    /// without their history.
    pub async fn rewrite_append_only_file(&self) -> Result<()> {
        self.broker()
            .query_if_reachable(
                "rewrite the append-only file",
                redis::pipe().cmd("BGREWRITEAOF").ignore(),
                self.deadline(),
            )
            .await
    }

    /// Counts the commands that the server has refused since its start, by error code (`NOAUTH`, `WRONGTYPE`, ...).
    pub async fn errorstats(&self) -> Result<BTreeMap<String, u64>> {
        let fields = self.info("errorstats").await?;
        let counts = info_fields(&fields).filter_map(|(name, value)| {
            let count = value.strip_prefix("count=")?.parse().ok()?;
            Some((name.strip_prefix("errorstat_")?.to_owned(), count))
        });
        Ok(counts.collect())
    }

    /// Counts the commands that the server has rejected before their execution since its start, by command. The names
    /// are those of the statistics of Redis, such as `ping` or `client setinfo`.
    pub async fn rejected_commands(&self) -> Result<BTreeMap<String, u64>> {
        let fields = self.info("commandstats").await?;
        let counts = info_fields(&fields).filter_map(|(name, value)| {
            let mut fields = value.split(',');
            let count = fields
                .find_map(|field| field.strip_prefix("rejected_calls="))?
                .parse()
                .ok()?;
            Some((name.strip_prefix("cmdstat_")?.replace('|', " "), count))
        });
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }

    async fn info(&self, section: &str) -> Result<String> {
        let mut info = redis::pipe();
        info.cmd("INFO").arg(section);
        let (text,): (String,) = self
            .broker()
            .query_if_reachable("read INFO", &info, self.deadline())
            .await?;
        Ok(text)
    }
}
