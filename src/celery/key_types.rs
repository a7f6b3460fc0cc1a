//! Keys of the broker that hold another type of value than Celery keeps there: every worker that uses one ends with
//! `WRONGTYPE`, and so does the next one. Found by their types, and moved aside by a rename.
//!
//! Not here: keys of results and of chords, which belong to one job (`results`, `chord`).

use std::fmt;

use super::Result;
use super::client::Client;

/// Moves a key that still has this type; names are tried until one is free. KEYS: key; ARGV: type, name to rename it to.
const MOVE: &str = "if redis.call('TYPE', KEYS[1]).ok ~= ARGV[1] then return false end \
    local name = ARGV[2] local count = 1 \
    while redis.call('EXISTS', name) == 1 do count = count + 1 name = ARGV[2] .. ':' .. count end \
    redis.call('RENAME', KEYS[1], name) return name";

/// A key with a value of a type that Celery cannot use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MistypedKey {
    pub key: String,
    /// As `TYPE` names it.
    pub found: String,
    /// Likewise.
    pub expected: &'static str,
    /// What Celery keeps there, such as ``the messages of the queue `celery` ``.
    pub purpose: String,
}

impl fmt::Display for MistypedKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            found,
            expected,
            purpose,
        } = self;
        write!(
            out,
            "the key `{key}` is a {found}; Celery keeps {purpose} there, in a {expected}"
        )
    }
}

impl Client {
    /// Finds the keys of a wrong type among those that a worker of these queues uses.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline, or refuses the command.
    pub async fn mistyped_keys(&self, queues: &[String]) -> Result<Vec<MistypedKey>> {
        let keys = self.keys_by_type(queues);
        let mut types = redis::pipe();
        for (key, ..) in &keys {
            types.cmd("TYPE").arg(key);
        }
        let found: Vec<String> = self
            .broker()
            .query("read the types of the broker's keys", &types, self.deadline())
            .await?;
        let all = keys.into_iter().zip(found);
        let wrong = all.filter(|((_, expected, _), found)| found != "none" && found != expected);
        Ok(wrong
            .map(|((key, expected, purpose), found)| MistypedKey {
                key,
                found,
                expected,
                purpose,
            })
            .collect())
    }

    /// Renames a key of a wrong type, and gives its new name. `None`: it is not there any more, or has another type now.
    ///
    /// # Errors
    /// As [`Client::mistyped_keys`].
    pub async fn move_key_aside(&self, key: &MistypedKey) -> Result<Option<String>> {
        let aside = self.broker_keys().quarantine(&format!("wrong-type:{}", key.key));
        let mut script = redis::pipe();
        script.cmd("EVAL").arg(MOVE).arg(1).arg(&key.key);
        script.arg(&key.found).arg(aside);
        let (name,): (Option<String>,) = self
            .broker()
            .query("move a key of a wrong type aside", &script, self.deadline())
            .await?;
        Ok(name)
    }

    /// The keys, the types that they must have, and what they are for.
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
        let unacked = "the messages that workers have taken and not acknowledged";
        all.push((keys.unacked(), "hash", unacked.to_owned()));
        let index = "the times at which workers took messages";
        all.push((keys.unacked_index(), "zset", index.to_owned()));
        let mutex = "the lock of the worker that gives lost messages back";
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
    fn a_key_of_a_wrong_type_is_named_with_what_belongs_there() {
        let key = MistypedKey {
            key: "celery".to_owned(),
            found: "string".to_owned(),
            expected: "list",
            purpose: "the messages of the queue `celery`".to_owned(),
        };
        assert_eq!(
            key.to_string(),
            "the key `celery` is a string; Celery keeps the messages of the queue `celery` there, in a list"
        );
    }
}
