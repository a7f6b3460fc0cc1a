//! Keys of the broker that hold a type of value that Celery cannot use. Every worker that uses such a key ends with
//! `WRONGTYPE`, and so does the worker after a restart. This module finds these keys by their types and renames them.
//!
//! Keys of results and of chords are not checked here, because they belong to one job (see
//! [`result_store`](crate::tasks::result_store) and [`chord`](crate::tasks::chord)).

use std::fmt;

use crate::client::Client;
use crate::error::Result;

/// Script that renames a key if it still has this type. The script numbers the new name if that exists. KEYS: key;
/// ARGV: type, new name.
const RENAME_SCRIPT: &str = "if redis.call('TYPE', KEYS[1]).ok ~= ARGV[1] then return false end \
    local name = ARGV[2] local count = 1 \
    while redis.call('EXISTS', name) == 1 do count = count + 1 name = ARGV[2] .. ':' .. count end \
    redis.call('RENAME', KEYS[1], name) return name";

/// Key with a value of a type that Celery cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MistypedKey {
    pub key: String,
    /// Type of the value, as the command `TYPE` names it.
    pub found_type: String,
    /// Type that Celery needs, as the command `TYPE` names it.
    pub expected_type: &'static str,
    /// Content that Celery stores under the key, such as ``the messages of the queue `celery` ``.
    pub purpose: String,
}

impl fmt::Display for MistypedKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            found_type: found,
            expected_type: expected,
            purpose,
        } = self;
        write!(
            out,
            "the key `{key}` is a {found}; Celery stores {purpose} there, in a {expected}"
        )
    }
}

impl Client {
    /// Finds keys of a wrong type among the keys that a worker of these queues uses.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline or refuses the command.
    pub async fn mistyped_keys(&self, queues: &[String]) -> Result<Vec<MistypedKey>> {
        let keys = self.keys_by_type(queues);
        let mut types = redis::pipe();
        for (key, ..) in &keys {
            types.cmd("TYPE").arg(key);
        }
        let found: Vec<String> = self.broker_query("read the types of the broker's keys", &types).await?;
        let all = keys.into_iter().zip(found);
        let wrong = all.filter(|((_, expected, _), found)| found != "none" && found != expected);
        Ok(wrong
            .map(|((key, expected, purpose), found)| MistypedKey {
                key,
                found_type: found,
                expected_type: expected,
                purpose,
            })
            .collect())
    }

    /// Renames a key of a wrong type and returns the new name. `None`: the key no longer exists or now has another
    /// type.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline or refuses the command.
    pub async fn rename_mistyped_key(&self, key: &MistypedKey) -> Result<Option<String>> {
        let aside = self.broker_keys().quarantine(&format!("wrong-type:{}", key.key));
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(RENAME_SCRIPT).arg(1).arg(&key.key);
        script.arg(&key.found_type).arg(aside);
        let (name,): (Option<String>,) = self.broker_query("rename a key of a wrong type", &script).await?;
        Ok(name)
    }

    /// Lists the keys with their required types and their purposes.
    fn keys_by_type(&self, queues: &[String]) -> Vec<(String, &'static str, String)> {
        let keys = self.broker_keys();
        let mut all = Vec::new();
        for queue in queues {
            for (_step, list) in keys.lists(queue) {
                all.push((list, "list", format!("the messages of the queue `{queue}`")));
            }
            let purpose = format!("the bindings of the queue `{queue}`");
            all.push((keys.bindings(queue), "set", purpose));
        }
        let unacked = "the unacknowledged messages";
        all.push((keys.unacked(), "hash", unacked.to_owned()));
        let index = "the times at which workers took messages";
        all.push((keys.unacked_index(), "zset", index.to_owned()));
        let mutex = "the lock for restoring unacknowledged messages";
        all.push((keys.unacked_mutex(), "string", mutex.to_owned()));
        let control = "the bindings of remote control";
        all.push((keys.bindings(&keys.control_exchange()), "set", control.to_owned()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_wrong_type_is_shown_with_its_purpose() {
        let key = MistypedKey {
            key: "celery".to_owned(),
            found_type: "string".to_owned(),
            expected_type: "list",
            purpose: "the messages of the queue `celery`".to_owned(),
        };
        assert_eq!(
            key.to_string(),
            "the key `celery` is a string; Celery stores the messages of the queue `celery` there, in a list"
        );
    }
}
