//! Names of Celery's keys and channels (Celery wire, observed on 5.2 to 5.7).

use std::sync::Arc;

use super::{Endpoint, GroupId, TaskId, Transport};

/// Ends the names of all queues and exchanges of remote control.
const PIDBOX_SUFFIX: &str = ".pidbox";
/// Begins the names of queues of events.
const EVENTS_PREFIX: &str = "celeryev.";
/// Begins the names of the sets of bindings.
const BINDINGS: &str = "_kombu.binding.";
/// Begins the names of a chord's bookkeeping.
const CHORD: &str = "celery-taskset-meta-";
/// Begins the names of the lists that hold what was moved aside.
const QUARANTINE: &str = "orch:quarantine:";

/// The names in one database.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    database: u32,
    transport: Arc<Transport>,
}

impl Keys {
    /// Returns the names in a broker.
    pub(super) fn of_broker(endpoint: &Endpoint, transport: &Arc<Transport>) -> Self {
        Self {
            prefix: transport.key_prefix.clone(),
            database: endpoint.database,
            transport: Arc::clone(transport),
        }
    }

    /// Returns the names in a result backend.
    pub(super) fn of_backend(endpoint: &Endpoint, transport: &Arc<Transport>) -> Self {
        Self {
            prefix: transport.backend_key_prefix.clone(),
            database: endpoint.database,
            transport: Arc::clone(transport),
        }
    }

    /// Stands between a queue's name and its priority step, and between the parts of a binding.
    pub(super) fn separator(&self) -> &str {
        &self.transport.separator
    }

    /// The list that a message of this priority waits in.
    pub(super) fn queue(&self, queue: &str, priority: u8) -> String {
        self.list(queue, self.transport.step_of(priority))
    }

    /// The list of a priority step; that of step 0 has no suffix.
    pub(super) fn list(&self, queue: &str, step: u8) -> String {
        match step {
            0 => format!("{}{queue}", self.prefix),
            step => format!("{}{queue}{}{step}", self.prefix, self.transport.separator),
        }
    }

    /// All lists of a queue with their priority steps, the step that is served first at the head.
    pub(super) fn lists(&self, queue: &str) -> Vec<(u8, String)> {
        let steps = self.transport.steps().into_iter();
        steps.map(|step| (step, self.list(queue, step))).collect()
    }

    pub(super) fn result(&self, task: &TaskId) -> String {
        format!("{}celery-task-meta-{task}", self.prefix)
    }

    /// Key of a group's bookkeeping: suffix `.s` size, `.j` results, `.t` extra count.
    pub(super) fn chord(&self, group: &GroupId, suffix: &str) -> String {
        format!("{}{CHORD}{group}{suffix}", self.prefix)
    }

    /// List of what was moved aside out of a queue: ours, not Celery's.
    pub(super) fn quarantine(&self, queue: &str) -> String {
        format!("{}{QUARANTINE}{queue}", self.prefix)
    }

    pub(super) fn unacked(&self) -> String {
        format!("{}{}", self.prefix, self.transport.unacked_key)
    }

    pub(super) fn unacked_index(&self) -> String {
        format!("{}{}", self.prefix, self.transport.unacked_index_key)
    }

    /// The name that kombu gives it; orch knows no setting of apps that changes it.
    pub(super) fn unacked_mutex(&self) -> String {
        format!("{}unacked_mutex", self.prefix)
    }

    /// Set of an exchange's bindings: `<routing key> SEP <pattern> SEP <queue>`.
    pub(super) fn bindings(&self, exchange: &str) -> String {
        format!("{}{BINDINGS}{exchange}", self.prefix)
    }

    /// Pattern of all keys.
    pub(super) fn all(&self) -> String {
        format!("{}*", escaped(&self.prefix))
    }

    /// Pattern of the sets of bindings of all exchanges.
    pub(super) fn all_bindings(&self) -> String {
        format!("{}{BINDINGS}*", escaped(&self.prefix))
    }

    /// Returns the queue that a binding names, unless it is a queue of remote control or of events.
    pub(super) fn bound_queue<'m>(&self, member: &'m str) -> Option<&'m str> {
        let (_pattern, queue) = member.rsplit_once(self.separator())?;
        let is_internal = queue.is_empty() || queue.ends_with(PIDBOX_SUFFIX) || queue.starts_with(EVENTS_PREFIX);
        (!is_internal).then_some(queue)
    }

    /// Whether a set of bindings is that of an exchange of remote control or of events: it may have a member for each
    /// process there ever was, and none is a queue of tasks.
    pub(super) fn is_control_bindings(&self, key: &str) -> bool {
        key.ends_with(PIDBOX_SUFFIX) || key == self.bindings(&self.transport.event_exchange)
    }

    /// Returns the queue whose messages a list holds, at any step of the app, going by its name. `None`: the list is one of
    /// remote control, of a chord's bookkeeping or of what was moved aside.
    pub(super) fn queue_of_list<'k>(&self, list: &'k str) -> Option<&'k str> {
        let name = list.strip_prefix(&self.prefix)?;
        // A separator such as `:` may be part of a queue's name: what follows it must be a step of the app.
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

    /// Channel of remote control.
    pub(super) fn control(&self) -> String {
        self.channel(&self.control_exchange())
    }

    /// The exchange of remote control.
    pub(super) fn control_exchange(&self) -> String {
        format!("{}{PIDBOX_SUFFIX}", self.transport.control_exchange)
    }

    /// Pattern of all event channels.
    pub(super) fn events(&self) -> String {
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

    /// The reply queue's name as a worker is told it: the worker's transport adds the prefix.
    pub(super) fn reply_queue(&self, client: &str) -> String {
        format!("{client}{}", self.reply_suffix())
    }

    /// The list behind a reply queue.
    pub(super) fn reply_list(&self, reply_queue: &str) -> String {
        self.queue(reply_queue, 0)
    }

    /// Pattern of all lists of control replies at any priority; it matches the binding set too, see [`Self::is_reply_list`].
    pub(super) fn reply_lists(&self) -> String {
        format!("{}*{}*", escaped(&self.prefix), escaped(&self.reply_suffix()))
    }

    /// Whether a key is a client's reply list, and not `_kombu.binding.reply.celery.pidbox`.
    pub(super) fn is_reply_list(&self, key: &str) -> bool {
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

    /// Pattern of all chord bookkeeping.
    pub(super) fn chords(&self) -> String {
        format!("{}{CHORD}*", escaped(&self.prefix))
    }
}

/// Literal text as a Redis glob.
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

    fn keys(transport: Transport) -> Keys {
        let transport = Transport {
            key_prefix: "P".to_owned(),
            ..transport
        };
        Keys::of_broker(&Endpoint::tcp("h", 1, 3), &Arc::new(transport))
    }

    #[test]
    fn names_follow_the_transport_settings() {
        let own = keys(Transport {
            separator: ":".to_owned(),
            priority_steps: (0..10).collect(),
            fanout_prefix: String::new(),
            fanout_patterns: false,
            control_exchange: "shop".to_owned(),
            event_exchange: "shop-ev".to_owned(),
            unacked_key: "taken".to_owned(),
            unacked_index_key: "taken-at".to_owned(),
            ..Transport::default()
        });
        let default = keys(Transport::default());
        for (found, expected) in [
            (default.queue("celery", 5), "Pcelery\u{6}\u{16}3"),
            (default.queue("celery", 2), "Pcelery"),
            (own.queue("celery", 5), "Pcelery:5"),
            (own.queue("celery", 0), "Pcelery"),
            (default.control(), "P/3.celery.pidbox"),
            (own.control(), "Pshop.pidbox"),
            (default.events(), "P/3.celeryev/*"),
            (own.events(), "Pshop-ev"),
            (default.unacked(), "Punacked"),
            (own.unacked(), "Ptaken"),
            (own.unacked_index(), "Ptaken-at"),
            (own.reply_list(&own.reply_queue("me")), "Pme.reply.shop.pidbox"),
        ] {
            assert_eq!(found, expected);
        }
        assert_eq!(own.lists("q").len(), 10);
        assert_eq!(default.lists("q").last(), Some(&(9, "Pq\u{6}\u{16}9".to_owned())));
        let fixed = keys(Transport {
            fanout_prefix: "/app{db}.".to_owned(),
            ..Transport::default()
        });
        assert_eq!(fixed.control(), "P/app3.celery.pidbox");
        let backend = Keys::of_backend(
            &Endpoint::tcp("h", 1, 1),
            &Arc::new(Transport {
                key_prefix: "P".to_owned(),
                backend_key_prefix: "R_".to_owned(),
                ..Transport::default()
            }),
        );
        assert_eq!(backend.result(&TaskId::from("x")), "R_celery-task-meta-x");
    }

    #[test]
    fn a_reply_list_is_told_from_the_binding_set() {
        let keys = keys(Transport::default());
        assert!(keys.is_reply_list("P0ab9.reply.celery.pidbox"));
        assert!(keys.is_reply_list("P0ab9.reply.celery.pidbox\u{6}\u{16}3"));
        assert!(!keys.is_reply_list("P_kombu.binding.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("P_kombu.binding_permanent.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("0ab9.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("P0ab9.reply.celery.pidbox.mine"));
    }

    #[test]
    fn a_list_and_a_binding_name_their_queue() {
        let keys = keys(Transport::default());
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
        let keys = keys(Transport {
            separator: ":".to_owned(),
            priority_steps: vec![0, 5],
            control_exchange: "shop".to_owned(),
            event_exchange: "shop-ev".to_owned(),
            ..Transport::default()
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
