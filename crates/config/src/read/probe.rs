//! Probes: `{ tcp = "host:port" }`, `{ http = "http://host:port/path" }`, `{ log = "text" }`, `{ file = "path" }`, `{
//! exec = ["program"] }`; exactly one each.

use super::commands::CommandReader;
use super::item::ConfigItem;
use super::section::Section;
use crate::model::Probe;
use crate::syntax::problem::Problem;

const KINDS: [&str; 5] = ["tcp", "http", "log", "file", "exec"];

/// Reads the probe of a section; the caller finishes the section.
pub(crate) fn probe(section: &Section<'_>, commands: &CommandReader<'_>) -> Option<Probe> {
    let reading = section.reading;
    let probes: Vec<Option<Probe>> = [
        section.item("tcp").map(|item| tcp(&item)),
        section.item("http").map(|item| http(&item)),
        section
            .item("log")
            .map(|item| item.line().map(|contains| Probe::Log { contains })),
        section
            .item("file")
            .map(|item| item.path().map(|path| Probe::File { path })),
        section
            .item("exec")
            .map(|item| commands.argv(&item).map(|argv| Probe::Exec { argv })),
    ]
    .into_iter()
    .flatten()
    .collect();
    match probes.len() {
        1 => probes.into_iter().next().flatten(),
        // A misspelt probe is reported as an unknown key.
        0 if section.unknown().next().is_some() => None,
        0 => {
            let problem = Problem::new(format!("`{}` has no probe", section.path))
                .at_if(section.at, "one probe is required")
                .help("write one of `tcp = \"127.0.0.1:80\"`, `http = \"http://127.0.0.1:80/\"`, `log = \"ready\"`, `file = \"path\"`, `exec = [\"program\"]`");
            reading.report(problem);
            None
        }
        _ => {
            let mut places = KINDS.iter().filter_map(|kind| section.place(kind));
            let mut problem =
                Problem::new(format!("`{}` has more than one probe", section.path)).at_if(places.next(), "this one");
            for place in places {
                problem = problem.related(place, "and this one");
            }
            reading.report(problem.help("write exactly one of `tcp`, `http`, `log`, `file`, `exec`"));
            None
        }
    }
}

fn tcp(item: &ConfigItem<'_>) -> Option<Probe> {
    let text = item.line()?;
    match host_and_port(&text) {
        Some((host, Some(port))) => Some(Probe::Tcp { host, port }),
        _ => item.refuse(
            format!("`{}` must be a host and a port", item.path),
            "such as `127.0.0.1:8000`, the port from 1 to 65535",
        ),
    }
}

fn http(item: &ConfigItem<'_>) -> Option<Probe> {
    let url = item.line()?;
    let wrong = |label: &str| item.refuse(format!("`{}` must be an http URL", item.path), label);
    let Some(rest) = url.strip_prefix("http://") else {
        return match url.starts_with("https://") {
            true => wrong("probes do not support TLS: use the plain port, or a `tcp` probe"),
            false => wrong("such as `http://127.0.0.1:8000/`"),
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if url.contains(char::is_whitespace) || authority.contains('@') || host_and_port(authority).is_none() {
        return wrong("such as `http://127.0.0.1:8000/`, the port from 1 to 65535");
    }
    Some(Probe::Http { url })
}

/// Splits `host`, `host:port` and `[v6]:port`.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                after.strip_prefix(':').or_else(|| after.is_empty().then_some(""))?,
            )
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" if text.ends_with(':') => return None,
        "" => None,
        port => Some(port.parse().ok().filter(|port| *port > 0)?),
    };
    let bad = |character: char| character.is_whitespace() || matches!(character, '/' | '{' | '}');
    (!host.is_empty() && !host.contains(bad)).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split() {
        for (text, parts) in [
            ("127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("localhost", Some(("localhost", None))),
            ("localhost:", None),
            (":80", None),
            ("host:0", None),
            ("host:70000", None),
            ("::1:80", None),
            ("[nonsense]:80", None),
            ("", None),
        ] {
            let found = host_and_port(text);
            assert_eq!(found, parts.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }
}
