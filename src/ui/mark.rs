//! The word of an event's line that says how things stand: it alone has a colour.

use std::borrow::Cow;

use super::paint::{Line, Tone};
use super::summary;
use crate::run::{EventKind, Level, SitePhase, describe_exit};

/// A word and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark<'e> {
    tone: Tone,
    word: Cow<'static, str>,
    /// Whose line it is: a name may hold the word too.
    name: &'e str,
}

impl Mark<'_> {
    /// The line in whose text the word is marked.
    pub fn line(&self, text: &str) -> Line {
        let named = text.find(self.name).map_or(0, |at| at + self.name.len());
        let place = text.get(named..).and_then(|rest| rest.find(&*self.word));
        let Some((before, rest)) = place.and_then(|place| text.split_at_checked(named + place)) else {
            return Line::of(Tone::Plain, text);
        };
        let (word, rest) = rest.split_at(self.word.len());
        let mut line = Line::of(Tone::Plain, before);
        line.push(self.tone, word).push(Tone::Plain, rest);
        line
    }
}

/// What of an event's line is marked.
pub fn mark(kind: &EventKind) -> Option<Mark<'_>> {
    let mark = |tone, word: &'static str, name| {
        let word = Cow::Borrowed(word);
        Some(Mark { tone, word, name })
    };
    match kind {
        EventKind::Noticed { level, .. } => match level {
            Level::Error => mark(Tone::Bad, "error:", ""),
            Level::Warning => mark(Tone::Warning, "warning:", ""),
            Level::Info => None,
        },
        EventKind::ServiceReady { service, .. } => mark(Tone::Good, "ready", service.as_str()),
        EventKind::ServiceReused { service, .. } => mark(Tone::Good, "reused", service.as_str()),
        EventKind::ServiceCompleted { service, .. } => mark(Tone::Good, "completed", service.as_str()),
        EventKind::ServiceUnhealthy { service, .. } => mark(Tone::Warning, "unhealthy", service.as_str()),
        EventKind::ServiceRestarting { service, .. } => mark(Tone::Warning, "restarting", service.as_str()),
        EventKind::ServiceFailed { service, .. } => mark(Tone::Bad, "failed", service.as_str()),
        EventKind::ServiceExited { service, status, .. } => Some(Mark {
            tone: Tone::Warning,
            word: describe_exit(*status).into(),
            name: service.as_str(),
        }),
        EventKind::ProxyRefreshFailed { .. } => mark(Tone::Bad, "failed", ""),
        EventKind::SiteVerdict { site, health, .. } => mark(Tone::Warning, health.word(), site.as_str()),
        EventKind::SiteStopRequested { site, .. } => mark(Tone::Warning, "stopping", site.as_str()),
        EventKind::SiteRetrying { site, .. } => mark(Tone::Warning, "RETRYING", site.as_str()),
        EventKind::SiteFinished { site, status, .. } => {
            let phase = SitePhase::from(*status);
            mark(summary::tone(phase), summary::status(phase), site.as_str())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_alone_is_coloured_and_never_a_name() {
        let name = "ready";
        let service = || name.into();
        let kind = EventKind::ServiceReused {
            service: service(),
            detail: "reused elsewhere".to_owned(),
        };
        let line = mark(&kind).unwrap().line("service ready reused: reused elsewhere");
        assert_eq!(
            line.whole(true).as_str(),
            "service ready \x1b[32mreused\x1b[0m: reused elsewhere"
        );
        let kind = EventKind::ServiceReady {
            service: service(),
            elapsed_ms: 0,
            detail: String::new(),
        };
        let line = mark(&kind).unwrap().line("00:00:00 service ready ready after 0s");
        assert_eq!(
            line.whole(true).as_str(),
            "00:00:00 service ready \x1b[32mready\x1b[0m after 0s"
        );
        let without = mark(&kind).unwrap().line("something else");
        assert_eq!(without.whole(true).as_str(), "something else");
    }
}
