//! Transport settings of the app, derived from keys in the broker when no other source is available.

use std::collections::BTreeSet;

use crate::client::Client;
use crate::error::Result;
use crate::wire::transport_settings::TransportSettings;

/// Keys per SCAN call, and maximum number of calls.
const PAGE: usize = 1000;
const PAGES: usize = 100;

impl Client {
    /// Reads the separator and the priority steps from the binding and the lists of a queue. The steps are those of
    /// lists that hold messages. Returns `None` when the queue has neither a binding of its own nor such lists.
    pub async fn observed_lists(&self, queue: &str) -> Result<Option<(String, Vec<u8>)>> {
        let transport = self.transport();
        let keys = self.broker_keys();
        let mut members = redis::pipe();
        // Default of Celery: the exchange and the routing key have the name of the queue.
        members.cmd("SMEMBERS").arg(keys.bindings(queue));
        let (members,): (Vec<Vec<u8>>,) = self.broker_query("read a queue's binding", &members).await?;
        let bound = members
            .iter()
            .filter_map(|member| std::str::from_utf8(member).ok())
            .find_map(|member| separator_in(member, queue));
        let is_bound = bound.is_some();
        let separator = bound.unwrap_or(&transport.separator);
        let named = |step: u8| match step {
            0 => keys.list(queue, 0),
            step => format!("{}{separator}{step}", keys.list(queue, 0)),
        };
        let mut exist = redis::pipe();
        for step in 0..=TransportSettings::LARGEST_PRIORITY {
            exist.cmd("EXISTS").arg(named(step));
        }
        let exist: Vec<bool> = self.broker_query("search for a queue's lists", &exist).await?;
        let steps: Vec<u8> = (0..)
            .zip(exist)
            .filter_map(|(step, exists)| exists.then_some(step))
            .collect();
        let observed = is_bound || !steps.is_empty();
        Ok(observed.then(|| (separator.to_owned(), steps)))
    }

    /// Searches the broker's keys for mailboxes of workers with other settings than those of this client. Returns pairs
    /// of `global_keyprefix` and `control_exchange`. A mailbox may belong to workers that have ended. The search covers
    /// only a part of a large database.
    pub async fn other_mailboxes(&self) -> Result<BTreeSet<(String, String)>> {
        let own = self.transport();
        let own = (own.key_prefix.clone(), own.control_exchange.clone());
        let mut found = BTreeSet::new();
        let mut cursor = 0_u64;
        for _page in 0..PAGES {
            let mut page = redis::pipe();
            page.cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg("*_kombu.binding.*.pidbox");
            page.arg("COUNT").arg(PAGE);
            let ((next, keys),): ((u64, Vec<Vec<u8>>),) =
                self.broker_query("search for mailboxes of workers", &page).await?;
            let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
            found.extend(keys.filter_map(mailbox_in).filter(|mailbox| *mailbox != own));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        Ok(found)
    }
}

/// Returns the prefix and the control exchange from the key of a mailbox.
fn mailbox_in(key: &str) -> Option<(String, String)> {
    let (prefix, exchange) = key.split_once("_kombu.binding.")?;
    let exchange = exchange.strip_suffix(".pidbox")?;
    (!exchange.starts_with("reply.")).then(|| (prefix.to_owned(), exchange.to_owned()))
}

/// Returns the separator of a binding `<queue> SEP <pattern> SEP <queue>` with an empty pattern.
fn separator_in<'m>(member: &'m str, queue: &str) -> Option<&'m str> {
    let between = member.strip_prefix(queue)?.strip_suffix(queue)?;
    let (first, second) = between.split_at_checked(between.len() / 2)?;
    (!first.is_empty() && first == second).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_shows_prefix_and_exchange() {
        for (key, expected) in [
            ("_kombu.binding.celery.pidbox", Some(("", "celery"))),
            ("shop-_kombu.binding.celery.pidbox", Some(("shop-", "celery"))),
            ("_kombu.binding.a.b.pidbox", Some(("", "a.b"))),
            ("_kombu.binding.reply.celery.pidbox", None),
            ("_kombu.binding_permanent.celery.pidbox", None),
            ("_kombu.binding.celery", None),
        ] {
            let expected = expected.map(|(prefix, exchange)| (prefix.to_owned(), exchange.to_owned()));
            assert_eq!(mailbox_in(key), expected, "{key}");
        }
    }

    #[test]
    fn a_binding_shows_the_separator() {
        for (member, queue, separator) in [
            ("celery\u{6}\u{16}\u{6}\u{16}celery", "celery", Some("\u{6}\u{16}")),
            ("celery::celery", "celery", Some(":")),
            ("a:b::a:b", "a:b", Some(":")),
            ("celery--celery", "celery", Some("-")),
            ("qéééq", "q", None),
            ("other::celery", "celery", None),
            ("celery:*:celery", "celery", None),
            ("celerycelery", "celery", None),
            ("celery", "celery", None),
            ("", "celery", None),
        ] {
            assert_eq!(separator_in(member, queue), separator, "{member}");
        }
    }
}
