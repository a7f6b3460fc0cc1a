//! How far a chord's header is, read from the backend's own bookkeeping (Celery wire, observed on 5.2 to 5.7).

use super::connection::Commands;
use super::keys::Keys;
use super::{GroupId, Result};

/// How many header results are looked at for failures; each read is O(that).
const FAILURES_SCANNED: u32 = 10_000;

/// The counters of a running chord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChordProgress {
    /// Header tasks that ended, failed ones included.
    pub done: u64,
    /// Header tasks in all; `None` until the last of them is published.
    pub total: Option<u64>,
    /// Header tasks that failed, of the first 10 000 that ended.
    pub failed: u64,
}

/// One read of all counters. `.j` is a sorted set, a list where `result_chord_ordered` is off; its members are
/// `[1, "<id>", "<STATE>", result]`. `.t` counts tasks that joined later.
const SCRIPT: &str = r#"
local kind = redis.call('TYPE', KEYS[1]).ok
local done, failed, last = 0, 0, tonumber(ARGV[1])
local command, count = nil, nil
if kind == 'zset' then command, count = 'ZRANGE', 'ZCARD' end
if kind == 'list' then command, count = 'LRANGE', 'LLEN' end
if command then
  done = redis.call(count, KEYS[1])
  last = math.min(last, done)
  for first = 0, last - 1, 100 do
    for _, member in ipairs(redis.call(command, KEYS[1], first, math.min(first + 99, last - 1))) do
      if string.find(member, '^%[%d+, ?"[^"]*", ?"FAILURE"') then failed = failed + 1 end
    end
  end
end
return {done, failed, redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])}
"#;

/// `None` when there is no bookkeeping: not begun, or complete, or expired.
pub(super) async fn progress(
    backend: &Commands,
    keys: &Keys,
    group: &GroupId,
    within: std::time::Duration,
) -> Result<Option<ChordProgress>> {
    let mut script = redis::pipe();
    script.cmd("EVAL").arg(SCRIPT).arg(3);
    for suffix in [".j", ".s", ".t"] {
        script.arg(keys.chord(group, suffix));
    }
    script.arg(FAILURES_SCANNED);
    type Counters = (u64, u64, Option<u64>, Option<u64>);
    let ((done, failed, size, extra),): (Counters,) = backend.query("read a chord's progress", &script, within).await?;
    if done == 0 && size.is_none() {
        return Ok(None);
    }
    let total = size.map(|size| size.saturating_add(extra.unwrap_or(0)));
    Ok(Some(ChordProgress { done, total, failed }))
}
