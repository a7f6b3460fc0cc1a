//! Whether the end of a chord's header task is counted in its chord (Celery wire, observed on 5.2 to 5.7).
//!
//! A worker stores a task's result first and counts it in the chord second. One that dies in between leaves a final result
//! that the chord has never seen: acknowledging such a message would leave the chord one short for ever.

use std::collections::HashSet;

use serde_json::Value;

use super::client::Client;
use super::envelope::Incoming;
use super::queues::Whereabouts;
use super::{GroupId, Result, TaskId, json};

/// Body of a task's message: `[args, kwargs, embed]`.
const EMBED: usize = 2;

/// A header task's place in its chord, as its message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChordPart {
    pub group: GroupId,
    /// Score of its entry in `.j`; `None` in messages of other clients.
    pub index: Option<i64>,
    /// `None` where the body cannot be read: pickle, msgpack, compressed.
    pub callback: Option<TaskId>,
    /// The queue that the callback is sent to.
    pub callback_queue: Option<String>,
}

/// The bookkeeping of a chord as far as one of its header tasks is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChordState {
    /// `.j` has an entry of the task.
    pub is_counted: bool,
    /// `.j` or `.s` exists.
    pub is_open: bool,
    /// Every header task is counted.
    pub is_full: bool,
    /// A worker has claimed the sending of the callback (Celery 5.7): a dead one's claim ends after some seconds.
    pub is_claimed: bool,
    /// The callback was sent.
    pub is_over: bool,
}

/// The right end of a message whose worker is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Everything that the task owes is done.
    Acknowledge,
    /// Nothing, or not all of it, is done.
    PutBack,
    /// All is counted and the callback is not sent: either a live worker is about to send it, or the dead one was. Put back
    /// where no live worker has a task of the chord.
    PutBackUnlessCompleting,
    /// To be looked at again in some seconds.
    Postpone,
}

/// Decides on a message; `chord` is `None` for a task outside of chords.
pub(super) fn fate(has_result: bool, chord: Option<ChordState>) -> Fate {
    let Some(chord) = chord else {
        return if has_result { Fate::Acknowledge } else { Fate::PutBack };
    };
    let ChordState {
        is_counted,
        is_open,
        is_full,
        is_claimed,
        is_over,
    } = chord;
    match (is_counted, is_over) {
        // Nobody else can complete it meanwhile.
        (true, false) if is_open && is_full && is_claimed => Fate::Postpone,
        (true, false) if is_open && is_full => Fate::PutBackUnlessCompleting,
        // Also where results are ignored.
        (true, _) => Fate::Acknowledge,
        // An open chord still waits for it, whatever result it has.
        (false, _) if is_open => Fate::PutBack,
        // Only a complete chord sends its callback.
        (false, true) => Fate::Acknowledge,
        (false, false) => Fate::PutBack,
    }
}

impl ChordPart {
    /// Reads a value of the hash `unacked`; `None` for a task outside of chords.
    pub(super) fn decode_unacked(value: &[u8]) -> Option<Self> {
        let what = "an unacknowledged message";
        let (message, _exchange, routing_key): (Incoming, Value, Value) = json::parse(value, what).ok()?;
        let group = GroupId::from(message.header("group")?);
        let index = message.headers.get("group_index").and_then(Value::as_i64);
        let mut part = Self {
            group,
            index,
            callback: None,
            callback_queue: None,
        };
        // A body of another serializer may belong to a chord.
        let Ok(body) = message.body(what) else {
            return Some(part);
        };
        let options = body
            .get(EMBED)?
            .get("chord")
            .filter(|chord| !chord.is_null())?
            .get("options");
        let option = |name: &str| options.and_then(|options| options.get(name)?.as_str());
        part.callback = option("task_id").map(TaskId::from);
        let queue = option("queue").or_else(|| routing_key.as_str());
        part.callback_queue = queue.filter(|queue| !queue.is_empty()).map(str::to_owned);
        Some(part)
    }
}

/// One look at a chord. KEYS: `.j`, `.s`, `.t`, `.c`, the callback's result; ARGV: the task, its index (empty: unknown), 1 where
/// the callback is known. An entry is `[1, "<id>", "<STATE>", result]` in JSON; another serializer has the id somewhere.
/// `.c` of Celery 5.7 is `done` once the callback was sent.
const LOOK: &str = r#"
local kind = redis.call('TYPE', KEYS[1]).ok
local function names_it(entry)
  local id = string.match(entry, '^%[%d+, ?"([^"]*)"')
  if id then return id == ARGV[1] end
  return string.find(entry, ARGV[1], 1, true) ~= nil
end
local counted, ended = 0, 0
local function look(entries)
  for _, entry in ipairs(entries) do
    if names_it(entry) then counted = 1 end
  end
end
if kind == 'zset' or kind == 'list' then
  local command, count = 'LRANGE', 'LLEN'
  if kind == 'zset' then command, count = 'ZRANGE', 'ZCARD' end
  ended = redis.call(count, KEYS[1])
  if kind == 'zset' and ARGV[2] ~= '' then
    look(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], ARGV[2]))
  else
    for first = 0, ended - 1, 100 do
      look(redis.call(command, KEYS[1], first, first + 99))
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

/// The tasks that a chord has counted; an entry that is no JSON gives an empty id. KEYS: `.j`.
const COUNTED: &str = r#"
local kind = redis.call('TYPE', KEYS[1]).ok
local entries = {}
if kind == 'zset' then entries = redis.call('ZRANGE', KEYS[1], 0, -1) end
if kind == 'list' then entries = redis.call('LRANGE', KEYS[1], 0, -1) end
local ids = {}
for place, entry in ipairs(entries) do ids[place] = string.match(entry, '^%[%d+, ?"([^"]*)"') or '' end
return ids
"#;

impl Client {
    /// Looks at the bookkeeping of `part` for its header task `id`; `None` where the message belongs to a plain group.
    pub(super) async fn chord_state(&self, id: &TaskId, part: &ChordPart) -> Result<Option<ChordState>> {
        let keys = self.backend_keys();
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(LOOK).arg(5);
        for suffix in [".j", ".s", ".t", ".c"] {
            script.arg(keys.chord(&part.group, suffix));
        }
        script.arg(keys.result(part.callback.as_ref().unwrap_or(id)));
        script.arg(id.as_str());
        script.arg(part.index.map(|index| index.to_string()).unwrap_or_default());
        script.arg(u8::from(part.callback.is_some()));
        type Seen = (u64, u64, u64, u64, u64);
        let ((counted, bookkeeping, full, claimed, over),): (Seen,) = self
            .backend_query("read whether a task is counted in its chord", &script)
            .await?;
        let mut state = ChordState {
            is_counted: counted > 0,
            is_open: bookkeeping > 0,
            is_full: full > 0,
            is_claimed: claimed > 0,
            is_over: over > 0,
        };
        let Some(callback) = &part.callback else {
            // Without its body a message with a group and no bookkeeping is taken for one of a plain group.
            return Ok((state.is_open || state.is_over).then_some(state));
        };
        if !state.is_over
            && (state.is_full || !state.is_open)
            && let Some(queue) = &part.callback_queue
        {
            // A complete chord keeps nothing, and its callback may not have begun.
            let place = self.locate(callback, &[queue]).await?;
            state.is_over = !matches!(place, Whereabouts::Nowhere | Whereabouts::Unknown(_));
        }
        Ok(Some(state))
    }

    /// The tasks that an open chord has counted; `None` where it is complete, or its entries cannot be read.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline, or refuses a command.
    pub async fn counted_in_chord(&self, group: &GroupId) -> Result<Option<HashSet<TaskId>>> {
        let keys = self.backend_keys();
        let (counted, size) = (keys.chord(group, ".j"), keys.chord(group, ".s"));
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(COUNTED).arg(1).arg(counted);
        script.cmd("EXISTS").arg(size);
        let (ids, is_open): (Vec<String>, u64) = self.backend_query("read what a chord has counted", &script).await?;
        let is_readable = is_open > 0 && ids.iter().all(|id| !id.is_empty());
        Ok(is_readable.then(|| ids.into_iter().map(TaskId::from).collect()))
    }

    /// Looks whether a live worker may be about to send the callback of a chord: it has one of its tasks then.
    pub(super) async fn may_be_completing(&self, part: &ChordPart, held: &HashSet<TaskId>) -> Result<bool> {
        if held.is_empty() {
            return Ok(false);
        }
        let mut script = redis::pipe();
        let key = self.backend_keys().chord(&part.group, ".j");
        script.cmd("EVAL").arg(COUNTED).arg(1).arg(key);
        let (counted,): (Vec<String>,) = self.backend_query("read what a chord has counted", &script).await?;
        Ok(counted
            .into_iter()
            .any(|id| id.is_empty() || held.contains(&TaskId::from(id))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::frames;
    use super::*;

    #[test]
    fn a_header_task_is_done_when_its_chord_has_counted_it_and_not_before() {
        let state = |is_counted, is_open, is_full, is_over| {
            Some(ChordState {
                is_counted,
                is_open,
                is_full,
                is_claimed: false,
                is_over,
            })
        };
        let claimed = Some(ChordState {
            is_claimed: true,
            ..state(true, true, true, false).unwrap()
        });
        let chord = |is_counted, is_open, is_over| state(is_counted, is_open, false, is_over);
        for (has_result, chord, fate_of_it) in [
            // No chord: the result is all that is owed.
            (false, None, Fate::PutBack),
            (true, None, Fate::Acknowledge),
            // Counted: also where the result is ignored.
            (true, chord(true, true, false), Fate::Acknowledge),
            (false, chord(true, true, false), Fate::Acknowledge),
            (true, chord(true, false, true), Fate::Acknowledge),
            // The worker died between the result and the count.
            (true, chord(false, true, false), Fate::PutBack),
            (false, chord(false, true, false), Fate::PutBack),
            // Its callback may have a result without having run: one that was revoked.
            (true, chord(false, true, true), Fate::PutBack),
            // The chord is complete.
            (true, chord(false, false, true), Fate::Acknowledge),
            (false, chord(false, false, true), Fate::Acknowledge),
            // All are counted, and the worker died before it sent the callback, or after.
            (true, state(true, true, true, false), Fate::PutBackUnlessCompleting),
            (true, state(true, true, true, true), Fate::Acknowledge),
            (true, claimed, Fate::Postpone),
            // Nothing is counted yet, and the chord's size is not written before its last task.
            (true, chord(false, false, false), Fate::PutBack),
            (false, chord(false, false, false), Fate::PutBack),
        ] {
            assert_eq!(fate(has_result, chord), fate_of_it, "{has_result} {chord:?}");
        }
    }

    #[test]
    fn a_header_task_of_every_version_names_its_chord() {
        for version in frames::VERSIONS {
            let recorded = frames::load(version, "chord");
            let pushed: Vec<&Value> = recorded
                .as_array()
                .expect(version)
                .iter()
                .filter(|line| line[0] == "LPUSH")
                .collect();
            let envelope = &pushed.get(1).expect(version)[2];
            let wire: Value = serde_json::from_slice(&frames::wire(envelope)).expect("JSON");
            let value = json!([wire, "", "celery"]).to_string();
            let part = ChordPart::decode_unacked(value.as_bytes()).expect(version);
            let callback = &envelope["body"][2]["chord"]["options"]["task_id"];
            assert_eq!(part.group.as_str(), envelope["headers"]["group"], "{version}");
            assert_eq!(part.index, Some(1), "{version}");
            assert_eq!(part.callback.expect(version).as_str(), callback, "{version}");
            assert_eq!(part.callback_queue.as_deref(), Some("celery"), "{version}");
        }
    }

    #[test]
    fn a_message_outside_of_chords_has_no_part_in_one() {
        let message = |headers: Value, embed: Value| {
            let body = frames::base64(json!([[], {}, embed]).to_string().as_bytes());
            let properties = json!({"body_encoding": "base64"});
            json!([{"headers": headers, "properties": properties, "body": body}, "", "celery"]).to_string()
        };
        let group = json!({"group": "g1"});
        for value in [
            message(json!({}), json!({"chord": {"options": {}}})),
            message(json!({"group": null}), json!({"chord": null})),
            message(group.clone(), json!({"chord": null})),
            message(group.clone(), json!({})),
            "[]".to_owned(),
            "poison".to_owned(),
        ] {
            assert_eq!(ChordPart::decode_unacked(value.as_bytes()), None, "{value}");
        }
        let pickled =
            json!([{"headers": group, "content-type": "application/x-python-serialize", "body": "gASV"}, "", "q"]);
        let part = ChordPart::decode_unacked(pickled.to_string().as_bytes()).expect("a group");
        assert_eq!((part.group.as_str(), part.callback), ("g1", None));
    }
}
