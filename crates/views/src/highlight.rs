//! Highlighting of an event's line: only the word that describes the state has a colour.

use std::borrow::Cow;

use crate::paint::{StyledLine, TextTone};
use crate::summary;
use orch_journal::{EventKind, NoticeLevel, SitePhase, describe_exit};

/// Highlighted word with a tone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordHighlight<'e> {
    tone: TextTone,
    word: Cow<'static, str>,
    /// Name of the service or site of the line, which may contain the word too.
    name: &'e str,
}

impl WordHighlight<'_> {
    /// Makes the line of this text with the highlighted word.
    pub fn line(&self, text: &str) -> StyledLine {
        let named = text.find(self.name).map_or(0, |at| at + self.name.len());
        let place = text.get(named..).and_then(|rest| rest.find(&*self.word));
        let Some((before, rest)) = place.and_then(|place| text.split_at_checked(named + place)) else {
            return StyledLine::of(TextTone::Plain, text);
        };
        let (word, rest) = rest.split_at(self.word.len());
        let mut line = StyledLine::of(TextTone::Plain, before);
        line.push(self.tone, word).plain(rest);
        line
    }
}

/// Finds the word to highlight in an event's line.
pub fn highlight(kind: &EventKind) -> Option<WordHighlight<'_>> {
    let mark = |tone, word: &'static str, name| {
        let word = Cow::Borrowed(word);
        Some(WordHighlight { tone, word, name })
    };
    match kind.level() {
        Some(NoticeLevel::Error) => return mark(TextTone::Bad, "error:", ""),
        Some(NoticeLevel::Warning) => return mark(TextTone::Warning, "warning:", ""),
        Some(NoticeLevel::Info) | None => {}
    }
    match kind {
        EventKind::ServiceReady { service, .. } => mark(TextTone::Good, "ready", service.as_str()),
        EventKind::ServiceReused { service, .. } => mark(TextTone::Good, "reused", service.as_str()),
        EventKind::ServiceCompleted { service, .. } => mark(TextTone::Good, "completed", service.as_str()),
        EventKind::ServiceUnhealthy { service, .. } => mark(TextTone::Warning, "unhealthy", service.as_str()),
        EventKind::ServiceRestarting { service, .. } => mark(TextTone::Warning, "restarting", service.as_str()),
        EventKind::ServiceFailed { service, .. } => mark(TextTone::Bad, "failed", service.as_str()),
        EventKind::ServiceExited { service, status, .. } => Some(WordHighlight {
            tone: TextTone::Warning,
            word: describe_exit(*status).into(),
            name: service.as_str(),
        }),
        EventKind::ProxyRefreshFailed { .. } => mark(TextTone::Bad, "failed", ""),
        EventKind::SiteVerdict { site, health, .. } => mark(TextTone::Warning, health.word(), site.as_str()),
        EventKind::SiteStopRequested { site, .. } => mark(TextTone::Warning, "stopping", site.as_str()),
        EventKind::SiteRetrying { site, .. } => mark(TextTone::Warning, "RETRYING", site.as_str()),
        EventKind::SiteFinished { site, status, .. } => {
            let phase = SitePhase::Ended(*status);
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
        let line = highlight(&kind).unwrap().line("service ready reused: reused elsewhere");
        assert_eq!(
            line.whole(true).as_str(),
            "service ready \x1b[32mreused\x1b[0m: reused elsewhere"
        );
        let kind = EventKind::ServiceReady {
            service: service(),
            elapsed_ms: 0,
            detail: String::new(),
        };
        let line = highlight(&kind).unwrap().line("00:00:00 service ready ready after 0s");
        assert_eq!(
            line.whole(true).as_str(),
            "00:00:00 service ready \x1b[32mready\x1b[0m after 0s"
        );
        let without = highlight(&kind).unwrap().line("something else");
        assert_eq!(without.whole(true).as_str(), "something else");
    }
}
