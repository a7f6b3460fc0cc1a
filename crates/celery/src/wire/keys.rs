//! Names of Celery's keys and channels (Celery wire, observed on 5.2 to 5.7).

use std::sync::Arc;

use super::ids::{GroupId, TaskId};
use super::transport_settings::TransportSettings;

/// Suffix of the names of all queues and exchanges of remote control.
const PIDBOX_SUFFIX: &str = ".pidbox";
/// Prefix of the names of event queues.
const EVENTS_PREFIX: &str = "celeryev.";
/// Prefix of the names of the sets of bindings.
const BINDINGS: &str = "_kombu.binding.";
/// Prefix of the names of a chord's bookkeeping.
const CHORD: &str = "celery-taskset-meta-";
/// Prefix of the names of the lists that hold quarantined messages.
const QUARANTINE: &str = "orch:quarantine:";

/// Names of keys and channels in one database.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    database: u32,
    transport: Arc<TransportSettings>,
}

impl Keys {
    /// Returns the names in a broker.
    pub(crate) fn of_broker(database: u32, transport: &Arc<TransportSettings>) -> Self {
        Self {
            prefix: transport.key_prefix.clone(),
            database,
            transport: Arc::clone(transport),
        }
    }

    /// Returns the names in a result backend.
    pub(crate) fn of_backend(database: u32, transport: &Arc<TransportSettings>) -> Self {
        Self {
            prefix: transport.backend_key_prefix.clone(),
            database,
            transport: Arc::clone(transport),
        }
    }

    /// Returns the separator between a queue's name and the priority step, and between the parts of a binding.
    pub(crate) fn separator(&self) -> &str {
        &self.transport.separator
    }

    /// Returns the list that holds messages of this priority.
    pub(crate) fn queue(&self, queue: &str, priority: u8) -> String {
        self.list(queue, self.transport.step_of(priority))
    }

    /// Returns the list of a priority step; the list of step 0 has no suffix.
    pub(crate) fn list(&self, queue: &str, step: u8) -> String {
        match step {
            0 => format!("{}{queue}", self.prefix),
            step => format!("{}{queue}{}{step}", self.prefix, self.transport.separator),
        }
    }

    /// Returns all lists of a queue with their priority steps; the step that workers serve first comes first.
    pub(crate) fn lists(&self, queue: &str) -> Vec<(u8, String)> {
        let steps = self.transport.steps().into_iter();
        steps.map(|step| (step, self.list(queue, step))).collect()
    }

    pub(crate) fn result(&self, task: &TaskId) -> String {
        format!("{}celery-task-meta-{task}", self.prefix)
    }

    /// Returns a key of a group's bookkeeping by suffix: `.s` size, `.j` results, `.t` number of tasks that joined
    /// later, `.c` claim of the callback (Celery 5.7), empty for the saved members.
    pub(crate) fn chord(&self, group: &GroupId, suffix: &str) -> String {
        format!("{}{CHORD}{group}{suffix}", self.prefix)
    }

    /// Returns the list of the messages that orch has moved out of a queue. Celery does not know this list.
    pub(crate) fn quarantine(&self, queue: &str) -> String {
        format!("{}{QUARANTINE}{queue}", self.prefix)
    }

    pub(crate) fn unacked(&self) -> String {
        format!("{}{}", self.prefix, self.transport.unacked_key)
    }

    pub(crate) fn unacked_index(&self) -> String {
        format!("{}{}", self.prefix, self.transport.unacked_index_key)
    }

    /// Returns kombu's default name of the lock; orch reads no setting of an app that changes the name.
    pub(crate) fn unacked_mutex(&self) -> String {
        format!("{}unacked_mutex", self.prefix)
    }

    /// Returns the set of an exchange's bindings: `<routing key> SEP <pattern> SEP <queue>`.
    pub(crate) fn bindings(&self, exchange: &str) -> String {
        format!("{}{BINDINGS}{exchange}", self.prefix)
    }

    /// Returns the pattern of all keys.
    pub(crate) fn all_keys_pattern(&self) -> String {
        format!("{}*", escaped(&self.prefix))
    }

    /// Returns the pattern of the sets of bindings of all exchanges.
    pub(crate) fn all_bindings_pattern(&self) -> String {
        format!("{}{BINDINGS}*", escaped(&self.prefix))
    }

    /// Returns the queue that a binding names, unless it is a queue of remote control or of events.
    pub(crate) fn bound_queue<'m>(&self, member: &'m str) -> Option<&'m str> {
        let (_pattern, queue) = member.rsplit_once(self.separator())?;
        let is_internal = queue.is_empty() || queue.ends_with(PIDBOX_SUFFIX) || queue.starts_with(EVENTS_PREFIX);
        (!is_internal).then_some(queue)
    }

    /// Returns whether a set of bindings belongs to an exchange of remote control or of events. Such a set may have a
    /// member for every process that has ever run, and no member names a queue of tasks.
    pub(crate) fn is_control_bindings(&self, key: &str) -> bool {
        key.ends_with(PIDBOX_SUFFIX) || key == self.bindings(&self.transport.event_exchange)
    }

    /// Returns the queue that a list belongs to, according to the list's name, at any priority step of the app.
    /// `None`: the list belongs to remote control, to a chord's bookkeeping or to the quarantine.
    pub(crate) fn queue_of_list<'k>(&self, list: &'k str) -> Option<&'k str> {
        let name = list.strip_prefix(&self.prefix)?;
        // A separator such as `:` may be part of a queue's name, so the text after it must be a priority step of the
        // app.
        let is_step = |text: &str| {
            let mut steps = self.transport.priority_steps.iter();
            steps.any(|step| *step != 0 && step.to_string() == text)
        };
        let queue = match name.rsplit_once(self.separator()) {
            Some((queue, step)) if is_step(step) => queue,
            _ => name,
        };
        let is_other = queue.is_empty()
            || queue.ends_with(PIDBOX_SUFFIX)
            || name.starts_with(CHORD)
            || name.starts_with(QUARANTINE);
        (!is_other).then_some(queue)
    }

    /// Returns the channel of remote control.
    pub(crate) fn control_channel(&self) -> String {
        self.channel(&self.control_exchange())
    }

    /// Returns the exchange of remote control.
    pub(crate) fn control_exchange(&self) -> String {
        format!("{}{PIDBOX_SUFFIX}", self.transport.control_exchange)
    }

    /// Returns the pattern of all event channels.
    pub(crate) fn event_channels_pattern(&self) -> String {
        let channel = escaped(&self.channel(&self.transport.event_exchange));
        match self.transport.fanout_patterns {
            true => format!("{channel}/*"),
            false => channel,
        }
    }

    fn channel(&self, exchange: &str) -> String {
        let fanout = self.transport.fanout_prefix.replace("{db}", &self.database.to_string());
        format!("{}{fanout}{exchange}", self.prefix)
    }

    fn reply_suffix(&self) -> String {
        format!(".reply.{}", self.control_exchange())
    }

    /// Returns the name of a reply queue without the key prefix, as a request names it: the worker's transport adds the
    /// prefix.
    pub(crate) fn reply_queue(&self, client: &str) -> String {
        format!("{client}{}", self.reply_suffix())
    }

    /// Returns the list of a reply queue.
    pub(crate) fn reply_list(&self, reply_queue: &str) -> String {
        self.queue(reply_queue, 0)
    }

    /// Returns the pattern of all lists of control replies at any priority. The pattern also matches the set of
    /// bindings, see [`Self::is_reply_list`].
    pub(crate) fn reply_lists_pattern(&self) -> String {
        format!("{}*{}*", escaped(&self.prefix), escaped(&self.reply_suffix()))
    }

    /// Returns whether a key is the reply list of a client and not `_kombu.binding.reply.celery.pidbox`.
    pub(crate) fn is_reply_list(&self, key: &str) -> bool {
        let Some(name) = key.strip_prefix(&self.prefix) else {
            return false;
        };
        let steps = self.transport.steps().into_iter().filter(|step| *step != 0);
        let suffixes = steps.map(|step| format!("{}{step}", self.transport.separator));
        let queue = suffixes
            .into_iter()
            .find_map(|suffix| name.strip_suffix(suffix.as_str()));
        queue
            .unwrap_or(name)
            .strip_suffix(self.reply_suffix().as_str())
            .is_some_and(|client| !client.starts_with("_kombu.binding"))
    }

    /// Returns the pattern of all chord bookkeeping.
    pub(crate) fn chord_keys_pattern(&self) -> String {
        format!("{}{CHORD}*", escaped(&self.prefix))
    }
}

/// Escapes a literal text for a Redis glob.
fn escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            glob.push('\\');
        }
        glob.push(character);
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(transport: TransportSettings) -> Keys {
        let transport = TransportSettings {
            key_prefix: "P".to_owned(),
            ..transport
        };
        Keys::of_broker(3, &Arc::new(transport))
    }

    #[test]
    fn names_follow_the_transport_settings() {
        let own = keys(TransportSettings {
            separator: ":".to_owned(),
            priority_steps: (0..10).collect(),
            fanout_prefix: String::new(),
            fanout_patterns: false,
            control_exchange: "shop".to_owned(),
            event_exchange: "shop-ev".to_owned(),
            unacked_key: "taken".to_owned(),
            unacked_index_key: "taken-at".to_owned(),
            ..TransportSettings::default()
        });
        let default = keys(TransportSettings::default());
        for (found, expected) in [
            (default.queue("celery", 5), "Pcelery\u{6}\u{16}3"),
            (default.queue("celery", 2), "Pcelery"),
            (own.queue("celery", 5), "Pcelery:5"),
            (own.queue("celery", 0), "Pcelery"),
            (default.control_channel(), "P/3.celery.pidbox"),
            (own.control_channel(), "Pshop.pidbox"),
            (default.event_channels_pattern(), "P/3.celeryev/*"),
            (own.event_channels_pattern(), "Pshop-ev"),
            (default.unacked(), "Punacked"),
            (own.unacked(), "Ptaken"),
            (own.unacked_index(), "Ptaken-at"),
            (own.reply_list(&own.reply_queue("me")), "Pme.reply.shop.pidbox"),
        ] {
            assert_eq!(found, expected);
        }
        assert_eq!(own.lists("q").len(), 10);
        assert_eq!(default.lists("q").last(), Some(&(9, "Pq\u{6}\u{16}9".to_owned())));
        let fixed = keys(TransportSettings {
            fanout_prefix: "/app{db}.".to_owned(),
            ..TransportSettings::default()
        });
        assert_eq!(fixed.control_channel(), "P/app3.celery.pidbox");
        let backend = Keys::of_backend(
            1,
            &Arc::new(TransportSettings {
                key_prefix: "P".to_owned(),
                backend_key_prefix: "R_".to_owned(),
                ..TransportSettings::default()
            }),
        );
        assert_eq!(backend.result(&TaskId::from("x")), "R_celery-task-meta-x");
    }

    #[test]
    fn a_reply_list_differs_from_the_binding_set() {
        let keys = keys(TransportSettings::default());
        assert!(keys.is_reply_list("P0ab9.reply.celery.pidbox"));
        assert!(keys.is_reply_list("P0ab9.reply.celery.pidbox\u{6}\u{16}3"));
        assert!(!keys.is_reply_list("P_kombu.binding.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("P_kombu.binding_permanent.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("0ab9.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("P0ab9.reply.celery.pidbox.mine"));
    }

    #[test]
    fn a_list_and_a_binding_name_their_queue() {
        let keys = keys(TransportSettings::default());
        for (list, queue) in [
            ("Pslow", Some("slow")),
            ("Pslow\u{6}\u{16}9", Some("slow")),
            ("Pslow\u{6}\u{16}x", Some("slow\u{6}\u{16}x")),
            ("Pslow:3", Some("slow:3")),
            ("Punacked", Some("unacked")),
            ("slow", None),
            ("P", None),
            ("P0ab9.reply.celery.pidbox", None),
            ("P0ab9.reply.celery.pidbox\u{6}\u{16}3", None),
            ("Pcelery-taskset-meta-7f.j", None),
            ("Porch:quarantine:celery", None),
        ] {
            assert_eq!(keys.queue_of_list(list), queue, "{list:?}");
        }
        for (member, queue) in [
            ("slow\u{6}\u{16}\u{6}\u{16}slow", Some("slow")),
            ("slow\u{6}\u{16}slow.#\u{6}\u{16}slow", Some("slow")),
            ("\u{6}\u{16}\u{6}\u{16}w1@h.celery.pidbox", None),
            ("worker.#\u{6}\u{16}\u{6}\u{16}celeryev.7f", None),
            ("slow", None),
            ("\u{6}\u{16}\u{6}\u{16}", None),
        ] {
            assert_eq!(keys.bound_queue(member), queue, "{member:?}");
        }
    }

    #[test]
    fn a_list_and_a_binding_of_an_app_with_its_own_separator_name_their_queue() {
        let keys = keys(TransportSettings {
            separator: ":".to_owned(),
            priority_steps: vec![0, 5],
            control_exchange: "shop".to_owned(),
            event_exchange: "shop-ev".to_owned(),
            ..TransportSettings::default()
        });
        for (list, queue) in [
            ("Pslow", Some("slow")),
            ("Pslow:5", Some("slow")),
            ("Pslow:3", Some("slow:3")),
            ("Pslow:0", Some("slow:0")),
            ("Pslow:05", Some("slow:05")),
            ("Pshard:5:5", Some("shard:5")),
            ("Pslow\u{6}\u{16}3", Some("slow\u{6}\u{16}3")),
            ("P0ab9.reply.shop.pidbox", None),
            ("P0ab9.reply.shop.pidbox:5", None),
            ("Porch:quarantine:5", None),
        ] {
            assert_eq!(keys.queue_of_list(list), queue, "{list:?}");
        }
        for (member, queue) in [
            ("slow::slow", Some("slow")),
            ("slow:slow.#:slow", Some("slow")),
            ("::w1@h.shop.pidbox", None),
            ("slow\u{6}\u{16}\u{6}\u{16}slow", None),
        ] {
            assert_eq!(keys.bound_queue(member), queue, "{member:?}");
        }
        assert!(keys.is_control_bindings("P_kombu.binding.shop.pidbox"));
        assert!(keys.is_control_bindings("P_kombu.binding.shop-ev"));
        assert!(!keys.is_control_bindings("P_kombu.binding.shop"));
    }
}
