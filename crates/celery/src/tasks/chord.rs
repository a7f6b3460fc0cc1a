//! Progress of a chord's header, read from the bookkeeping in the result backend (Celery wire, observed on 5.2 to 5.7).

use crate::client::Client;
use crate::error::Result;
use crate::wire::ids::GroupId;

/// Number of header results that are searched for failures; the cost of each read is proportional to this number.
const FAILURES_SCANNED: u32 = 10_000;

/// Counters of a running chord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChordProgress {
    /// Header tasks that ended, including failed tasks.
    pub done: u64,
    /// All header tasks; `None` until the last header task is published.
    pub total: Option<u64>,
    /// Header tasks that failed, among the first 10 000 that ended.
    pub failed: u64,
}

/// Script that reads all counters at once. `.j` is a sorted set, or a list if `result_chord_ordered` is off; the
/// members are `[1, "<id>", "<STATE>", result]`. `.t` counts tasks that joined later.
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

impl Client {
    /// Reads the progress of a chord's header. `None` means that Redis holds no bookkeeping: the chord has not begun,
    /// is complete, or has expired. The group's id is in the
    /// [`children`](crate::tasks::task_result::TaskResult::children) of the task that started the chord.
    pub async fn chord_progress(&self, group: &GroupId) -> Result<Option<ChordProgress>> {
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(SCRIPT).arg(3);
        for suffix in [".j", ".s", ".t"] {
            script.arg(self.backend_keys().chord(group, suffix));
        }
        script.arg(FAILURES_SCANNED);
        type Counters = (u64, u64, Option<u64>, Option<u64>);
        let ((done, failed, size, extra),): (Counters,) =
            self.backend_query("read a chord's progress", &script).await?;
        if done == 0 && size.is_none() {
            return Ok(None);
        }
        let total = size.map(|size| size.saturating_add(extra.unwrap_or(0)));
        Ok(Some(ChordProgress { done, total, failed }))
    }
}
