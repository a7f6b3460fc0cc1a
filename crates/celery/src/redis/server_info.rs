//! Information about a Redis or Valkey server from INFO.

/// Identity and state of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Redis version that the server is compatible with, such as `7.2.4`.
    pub redis_version: String,
    /// Version of Valkey; `None` for Redis.
    pub valkey_version: Option<String>,
    /// Process id of the server on its own host.
    pub process_id: Option<u32>,
    /// Random id that is new at each start of the server.
    pub run_id: Option<String>,
    /// True while the server reads its data from disk and refuses most commands.
    pub loading: bool,
    /// True if the last attempt to save the data failed; the server may refuse writes.
    pub persistence_failing: bool,
    /// Used memory in bytes.
    pub used_memory: u64,
    /// Memory limit in bytes; `None` means no limit.
    pub max_memory: Option<u64>,
}

impl ServerInfo {
    /// Reads the text of `INFO`.
    pub(crate) fn read(info: &str) -> Self {
        let mut server = Self::default();
        for (name, value) in info_fields(info) {
            match name {
                "redis_version" => server.redis_version = value.to_owned(),
                "valkey_version" => server.valkey_version = Some(value.to_owned()),
                "process_id" => server.process_id = value.parse().ok(),
                "run_id" => server.run_id = Some(value.to_owned()),
                "loading" => server.loading = value != "0",
                "rdb_last_bgsave_status" | "aof_last_write_status" | "aof_last_bgrewrite_status" => {
                    server.persistence_failing |= value != "ok";
                }
                "used_memory" => server.used_memory = value.parse().unwrap_or_default(),
                "maxmemory" => server.max_memory = value.parse().ok().filter(|bytes| *bytes > 0),
                _ => {}
            }
        }
        server
    }

    /// Returns the major and minor number of the Redis version that the server is compatible with.
    pub fn redis_major_minor(&self) -> Option<(u32, u32)> {
        let mut parts = self.redis_version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// Returns the names and values of the lines `name:value`.
pub(crate) fn info_fields(info: &str) -> impl Iterator<Item = (&str, &str)> {
    info.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim_end().split_once(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read() {
        let info = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\nprocess_id:77\r\n\
                    # Persistence\r\nloading:1\r\nrdb_last_bgsave_status:err\r\n# Memory\r\nused_memory:900\r\nmaxmemory:0\r\n";
        let server = ServerInfo::read(info);
        assert_eq!(server.redis_major_minor(), Some((7, 2)));
        assert_eq!(server.valkey_version.as_deref(), Some("8.1.1"));
        assert_eq!(
            (server.process_id, server.used_memory, server.max_memory),
            (Some(77), 900, None)
        );
        assert!(server.loading && server.persistence_failing);
    }
}
