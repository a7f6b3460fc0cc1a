//! `[ports]`: named ports, chosen at load where they are 0, and `{ports.<name>}` replaced in every string.

use std::collections::BTreeMap;

use super::templates::part;
use crate::read::load_context::LoadContext;
use crate::read::section::Section;
use crate::syntax::problem::{Problem, nearest};
use crate::syntax::tree::{SyntaxNode, SyntaxValue};
use orch_base::net::free_port;

/// Number of ports at most, since a free port is searched for and reserved for each 0.
const MAX_PORTS: usize = 1000;
/// Address on which a chosen port must be free.
const LOOPBACK: &str = "127.0.0.1";

/// Reads `[ports]`; a port of 0 becomes the port of an instance that is up (`known`), else a free one.
pub(crate) fn ports(root: &Section<'_>, known: &BTreeMap<String, u16>) -> BTreeMap<String, u16> {
    let section = root.section("ports");
    let mut ports = BTreeMap::new();
    for (key, item) in section.named_up_to(MAX_PORTS, "ports") {
        let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        if key.name.is_empty() || !key.name.chars().all(fits) {
            let title = format!("a port cannot be named `{}`", key.name);
            let problem = Problem::new(title).at(key.span, "ASCII letters, digits, `_` and `-` only");
            root.reading.report(problem);
        }
        let Some(mut port) = item.port(0) else {
            // Record the name, so that uses are not reported as well.
            ports.insert(key.name.clone(), 0);
            continue;
        };
        if port == 0 {
            port = known.get(&key.name).copied().unwrap_or(0);
        }
        if port == 0 {
            match free_port::reserve(LOOPBACK) {
                Ok(free) => port = free,
                Err(error) => {
                    let title = format!("no free port for `{}`", item.path);
                    root.reading.report(item.problem(title, error.to_string()));
                }
            }
        }
        ports.insert(key.name.clone(), port);
    }
    ports
}

/// Replaces `{ports.<name>}` in every string below `node`. A string that consists of one such placeholder becomes a
/// number that may also be read as text. `{{ports.x}}` stays, because such braces are literal.
pub(crate) fn substitute(node: &mut SyntaxNode, ports: &BTreeMap<String, u16>, reading: &LoadContext) {
    node.walk(&mut |node| {
        let SyntaxValue::Text(text) = &node.value else { return };
        if !text.contains("{ports.") {
            return;
        }
        let (replaced, unknown) = replace(text, ports);
        for name in unknown {
            let source = reading.sources.text(node.span);
            let names = ports.keys().map(String::as_str);
            let label = match nearest(&name, names.clone()) {
                Some(near) => format!("did you mean `{{ports.{near}}}`?"),
                None => "not in `[ports]`".to_owned(),
            };
            let known: Vec<&str> = names.collect();
            let help = match known.as_slice() {
                [] => format!("write `[ports]` with `{name} = 0` for a free port"),
                known => format!(
                    "known ports: {}; `{name} = 0` in `[ports]` chooses a free one",
                    known.join(", ")
                ),
            };
            let problem = Problem::new(format!("there is no port `{name}`"));
            let problem = problem.at(part(node.span, &source, &format!("ports.{name}")), label);
            reading.report(problem.help(help).absence());
        }
        let whole = text.starts_with('{') && text.find('}') == Some(text.len() - 1);
        if let (true, Ok(number)) = (whole, replaced.parse()) {
            node.value = SyntaxValue::Integer(number);
            node.text = Some(replaced);
        } else {
            node.value = SyntaxValue::Text(replaced);
        }
    });
}

/// Replaces the ports in a text; also returns the unknown names.
fn replace(text: &str, ports: &BTreeMap<String, u16>) -> (String, Vec<String>) {
    const OPEN: &str = "{ports.";
    let mut replaced = String::new();
    let mut unknown = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        let inside = &rest[at + OPEN.len()..];
        let braces = rest[..=at]
            .chars()
            .rev()
            .take_while(|character| *character == '{')
            .count();
        let name = inside.split_once('}').map(|(name, _)| name);
        match name {
            Some(name) if braces % 2 == 1 => {
                replaced.push_str(&rest[..at]);
                match ports.get(name) {
                    Some(port) => replaced.push_str(&port.to_string()),
                    None => unknown.push(name.to_owned()),
                }
                rest = &inside[name.len() + 1..];
            }
            // An escaped brace, or one that is never closed, is literal text.
            _ => {
                replaced.push_str(&rest[..at + OPEN.len()]);
                rest = inside;
            }
        }
    }
    replaced.push_str(rest);
    (replaced, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_are_replaced() {
        let ports = BTreeMap::from([("web".to_owned(), 80), ("db".to_owned(), 5432)]);
        for (text, expected, missing) in [
            ("{ports.web}", "80", vec![]),
            ("a {ports.web}-{ports.db} b", "a 80-5432 b", vec![]),
            ("{{ports.web}}", "{{ports.web}}", vec![]),
            ("{{{ports.web}", "{{80", vec![]),
            ("{ports.wbe}/", "/", vec!["wbe"]),
            ("{ports.web", "{ports.web", vec![]),
            ("{site} ${HOME}", "{site} ${HOME}", vec![]),
            ("", "", vec![]),
        ] {
            let (replaced, unknown) = replace(text, &ports);
            assert_eq!(replaced, expected, "{text}");
            assert_eq!(unknown, missing, "{text}");
        }
    }
}
