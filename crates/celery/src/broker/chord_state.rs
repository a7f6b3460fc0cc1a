//! Bookkeeping of chords: decides whether a chord has counted the end of a header task (Celery wire, observed on 5.2 to
//! 5.7).
//!
//! A worker first stores the result of a task and then counts the task in the chord. A worker that dies between these
//! two steps leaves a final result that the chord has not counted. If the message of such a task were acknowledged, the
//! chord would never be complete.

use std::collections::HashSet;

use super::find_tasks::TaskLocation;
use crate::client::Client;
use crate::error::Result;
use crate::wire::chord_member::ChordMember;
use crate::wire::ids::{GroupId, TaskId};

/// State of a chord's bookkeeping with regard to one header task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChordState {
    /// True if `.j` has an entry for the task.
    pub is_counted: bool,
    /// True if `.j` or `.s` exists.
    pub is_open: bool,
    /// True if all header tasks are counted.
    pub has_counted_all: bool,
    /// True if a worker has claimed the sending of the callback (Celery 5.7). The claim of a dead worker expires after
    /// some seconds.
    pub is_claimed: bool,
    /// True if the callback was sent.
    pub is_callback_sent: bool,
}

/// Right action for the message of a dead worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnackedAction {
    /// Acknowledgement: the task has nothing left to do.
    Acknowledge,
    /// Return to the queue: the work of the task is not complete.
    Requeue,
    /// Return to the queue, unless a live worker has a task of the chord. All header tasks are counted and the callback
    /// is not sent: either a live worker or the dead worker was about to send the callback.
    RequeueUnlessCompleting,
    /// New decision in some seconds.
    Postpone,
}

/// Decides on the action for a message; `chord` is `None` for a task outside of chords.
pub(crate) fn unacked_action(has_result: bool, chord: Option<ChordState>) -> UnackedAction {
    let Some(chord) = chord else {
        return if has_result {
            UnackedAction::Acknowledge
        } else {
            UnackedAction::Requeue
        };
    };
    let ChordState {
        is_counted,
        is_open,
        has_counted_all: is_full,
        is_claimed,
        is_callback_sent: is_over,
    } = chord;
    match (is_counted, is_over) {
        // No other worker can complete the chord while the claim lasts.
        (true, false) if is_open && is_full && is_claimed => UnackedAction::Postpone,
        (true, false) if is_open && is_full => UnackedAction::RequeueUnlessCompleting,
        // This also holds if results are ignored.
        (true, _) => UnackedAction::Acknowledge,
        // An open chord still waits for this task, whatever result the task has.
        (false, _) if is_open => UnackedAction::Requeue,
        // Only a complete chord sends the callback.
        (false, true) => UnackedAction::Acknowledge,
        (false, false) => UnackedAction::Requeue,
    }
}

/// Script that reads the state of a chord. KEYS: `.j`, `.s`, `.t`, `.c`, the callback's result; ARGV: the task's id,
/// the task's index (empty: unknown), 1 if the callback is known. An entry is `[1, "<id>", "<STATE>", result]` in JSON;
/// entries of other serializers contain the id somewhere. `.c` (Celery 5.7) is `done` after the callback was sent.
const STATE_SCRIPT: &str = r#"
local kind = redis.call('TYPE', KEYS[1]).ok
local function names_it(entry)
  local id = string.match(entry, '^%[%d+, ?"([^"]*)"')
  if id then return id == ARGV[1] end
  return string.find(entry, ARGV[1], 1, true) ~= nil
end
local counted, ended = 0, 0
local function search(entries)
  for _, entry in ipairs(entries) do
    if names_it(entry) then counted = 1 end
  end
end
if kind == 'zset' or kind == 'list' then
  local command, count = 'LRANGE', 'LLEN'
  if kind == 'zset' then command, count = 'ZRANGE', 'ZCARD' end
  ended = redis.call(count, KEYS[1])
  if kind == 'zset' and ARGV[2] ~= '' then
    search(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], ARGV[2]))
  else
    for first = 0, ended - 1, 100 do
      search(redis.call(command, KEYS[1], first, first + 99))
    end
  end
end
local function text(key)
  if redis.call('TYPE', key).ok == 'string' then return redis.call('GET', key) end
  return ''
end
local size, full, over = tonumber(text(KEYS[2])), 0, 0
if size and ended >= size + (tonumber(text(KEYS[3])) or 0) then full = 1 end
local claim = text(KEYS[4])
if claim == 'done' then over = 1 end
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[5]) == 1 then over = 1 end
return {counted, redis.call('EXISTS', KEYS[1], KEYS[2]), full, claim ~= '' and claim ~= 'done' and 1 or 0, over}
"#;

/// Script that returns the tasks that a chord has counted; the id of an entry that is not JSON is empty. KEYS: `.j`.
const COUNTED_SCRIPT: &str = r#"
local kind = redis.call('TYPE', KEYS[1]).ok
local entries = {}
if kind == 'zset' then entries = redis.call('ZRANGE', KEYS[1], 0, -1) end
if kind == 'list' then entries = redis.call('LRANGE', KEYS[1], 0, -1) end
local ids = {}
for place, entry in ipairs(entries) do ids[place] = string.match(entry, '^%[%d+, ?"([^"]*)"') or '' end
return ids
"#;

impl Client {
    /// Reads the bookkeeping of `part` for the header task `id`; `None` if the message belongs to a plain group.
    pub(crate) async fn chord_state(&self, id: &TaskId, part: &ChordMember) -> Result<Option<ChordState>> {
        let keys = self.backend_keys();
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(STATE_SCRIPT).arg(5);
        for suffix in [".j", ".s", ".t", ".c"] {
            script.arg(keys.chord(&part.group, suffix));
        }
        script.arg(keys.result(part.callback.as_ref().unwrap_or(id)));
        script.arg(id.as_str());
        script.arg(part.index.map(|index| index.to_string()).unwrap_or_default());
        script.arg(u8::from(part.callback.is_some()));
        type StateReply = (u64, u64, u64, u64, u64);
        let ((counted, bookkeeping, full, claimed, over),): (StateReply,) =
            self.backend_query("read the state of a chord", &script).await?;
        let mut state = ChordState {
            is_counted: counted > 0,
            is_open: bookkeeping > 0,
            has_counted_all: full > 0,
            is_claimed: claimed > 0,
            is_callback_sent: over > 0,
        };
        let Some(callback) = &part.callback else {
            // If the body is unreadable, a message with a group but without bookkeeping counts as one of a plain group.
            return Ok((state.is_open || state.is_callback_sent).then_some(state));
        };
        if !state.is_callback_sent
            && (state.has_counted_all || !state.is_open)
            && let Some(queue) = &part.callback_queue
        {
            // A complete chord has no bookkeeping, and the callback may still wait in a queue.
            let place = self.locate(callback, &[queue]).await?;
            state.is_callback_sent = !matches!(place, TaskLocation::NotFound | TaskLocation::Unknown(_));
        }
        Ok(Some(state))
    }

    /// Returns the tasks that an open chord has counted; `None` if the chord is complete or an entry cannot be read.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline or refuses a command.
    pub async fn counted_in_chord(&self, group: &GroupId) -> Result<Option<HashSet<TaskId>>> {
        let keys = self.backend_keys();
        let (counted, size) = (keys.chord(group, ".j"), keys.chord(group, ".s"));
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(COUNTED_SCRIPT).arg(1).arg(counted);
        script.cmd("EXISTS").arg(size);
        let (ids, is_open): (Vec<String>, u64) = self
            .backend_query("read the tasks that a chord has counted", &script)
            .await?;
        let is_readable = is_open > 0 && ids.iter().all(|id| !id.is_empty());
        Ok(is_readable.then(|| ids.into_iter().map(TaskId::from).collect()))
    }

    /// Returns whether a live worker may be about to send the callback of a chord. Such a worker holds a counted task
    /// of the chord. `held` are the tasks that live workers hold; an unreadable entry of the chord counts as held.
    pub(crate) async fn may_send_chord_callback(&self, part: &ChordMember, held: &HashSet<TaskId>) -> Result<bool> {
        if held.is_empty() {
            return Ok(false);
        }
        let mut script = redis::pipe();
        let key = self.backend_keys().chord(&part.group, ".j");
        script.cmd("EVAL").arg(COUNTED_SCRIPT).arg(1).arg(key);
        let (counted,): (Vec<String>,) = self
            .backend_query("read the tasks that a chord has counted", &script)
            .await?;
        Ok(counted
            .into_iter()
            .any(|id| id.is_empty() || held.contains(&TaskId::from(id))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_task_is_done_when_its_chord_has_counted_it_and_not_before() {
        let state = |is_counted, is_open, is_full, is_over| {
            Some(ChordState {
                is_counted,
                is_open,
                has_counted_all: is_full,
                is_claimed: false,
                is_callback_sent: is_over,
            })
        };
        let claimed = Some(ChordState {
            is_claimed: true,
            ..state(true, true, true, false).unwrap()
        });
        let chord = |is_counted, is_open, is_over| state(is_counted, is_open, false, is_over);
        for (has_result, chord, expected) in [
            // Without a chord only the result matters.
            (false, None, UnackedAction::Requeue),
            (true, None, UnackedAction::Acknowledge),
            // The task is counted, also if results are ignored.
            (true, chord(true, true, false), UnackedAction::Acknowledge),
            (false, chord(true, true, false), UnackedAction::Acknowledge),
            (true, chord(true, false, true), UnackedAction::Acknowledge),
            // The worker died after storing the result and before counting the task.
            (true, chord(false, true, false), UnackedAction::Requeue),
            (false, chord(false, true, false), UnackedAction::Requeue),
            // A callback that was revoked has a result, although it has not run.
            (true, chord(false, true, true), UnackedAction::Requeue),
            // The chord is complete.
            (true, chord(false, false, true), UnackedAction::Acknowledge),
            (false, chord(false, false, true), UnackedAction::Acknowledge),
            // All tasks are counted. The worker died before or after it sent the callback.
            (
                true,
                state(true, true, true, false),
                UnackedAction::RequeueUnlessCompleting,
            ),
            (true, state(true, true, true, true), UnackedAction::Acknowledge),
            (true, claimed, UnackedAction::Postpone),
            // Nothing is counted yet; Celery does not write the size of a chord before the last header task is
            // published.
            (true, chord(false, false, false), UnackedAction::Requeue),
            (false, chord(false, false, false), UnackedAction::Requeue),
        ] {
            assert_eq!(unacked_action(has_result, chord), expected, "{has_result} {chord:?}");
        }
    }
}
