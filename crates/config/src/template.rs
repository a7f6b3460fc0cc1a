//! Placeholders in task arguments and key prefixes: `{site}`, `{start_urls}`, `{job_id}`, any key of the site.
//!
//! A text that is exactly one placeholder becomes the value itself, so `"{start_urls}"` stays a list; within a longer
//! text the value is written as text. `{{` and `}}` are literal braces.

use serde_json::{Map, Value};

use orch_base::text::large_integer;

/// Error of a text that cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{template}` has a `{{` that is not closed; write `{{{{` for a literal brace")]
    Unclosed { template: String },
    #[error("`{template}` has a `}}` that is not opened; write `}}}}` for a literal brace")]
    Unopened { template: String },
    #[error("`{template}` uses `{{{name}}}`, which is not a key of the site; write `{{{{` for a literal brace")]
    Unknown { template: String, name: String },
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePiece {
    Text(String),
    Placeholder(String),
}

/// Fills a value: texts in lists and in the values of objects are templates too, object keys are not.
pub fn fill(template: &Value, values: &Map<String, Value>) -> Result<Value, TemplateError> {
    match template {
        Value::String(text) => {
            let pieces = split(text)?;
            if let [TemplatePiece::Placeholder(name)] = pieces.as_slice() {
                return look_up(text, name, values).cloned();
            }
            Ok(Value::String(join(text, &pieces, values)?))
        }
        Value::Array(items) => Ok(Value::Array(
            items.iter().map(|item| fill(item, values)).collect::<Result<_, _>>()?,
        )),
        Value::Object(entries) => {
            let filled = entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), fill(value, values)?)));
            Ok(Value::Object(filled.collect::<Result<_, _>>()?))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(template.clone()),
    }
}

/// Fills a text that stays a text, such as a key prefix.
pub fn fill_text(template: &str, values: &Map<String, Value>) -> Result<String, TemplateError> {
    join(template, &split(template)?, values)
}

/// Returns the names of all placeholders, in order, with repetitions.
pub fn placeholders(template: &Value) -> Result<Vec<String>, TemplateError> {
    let mut names = Vec::new();
    let mut open = vec![template];
    while let Some(value) = open.pop() {
        match value {
            Value::String(text) => names.extend(split(text)?.into_iter().filter_map(|piece| match piece {
                TemplatePiece::Placeholder(name) => Some(name),
                TemplatePiece::Text(_) => None,
            })),
            Value::Array(items) => open.extend(items.iter().rev()),
            Value::Object(entries) => open.extend(entries.values().rev()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    Ok(names)
}

fn split(template: &str) -> Result<Vec<TemplatePiece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let from_brace = &rest[at..];
        if let Some(after) = from_brace.strip_prefix("{{") {
            text.push('{');
            rest = after;
        } else if let Some(after) = from_brace.strip_prefix("}}") {
            text.push('}');
            rest = after;
        } else if let Some(inside) = from_brace.strip_prefix('{') {
            let end = inside.find('}').ok_or_else(|| TemplateError::Unclosed {
                template: template.to_owned(),
            })?;
            if !text.is_empty() {
                pieces.push(TemplatePiece::Text(std::mem::take(&mut text)));
            }
            pieces.push(TemplatePiece::Placeholder(inside[..end].trim().to_owned()));
            rest = &inside[end + 1..];
        } else {
            return Err(TemplateError::Unopened {
                template: template.to_owned(),
            });
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(TemplatePiece::Text(text));
    }
    Ok(pieces)
}

fn join(template: &str, pieces: &[TemplatePiece], values: &Map<String, Value>) -> Result<String, TemplateError> {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            TemplatePiece::Text(literal) => text.push_str(literal),
            TemplatePiece::Placeholder(name) => match look_up(template, name, values)? {
                Value::String(value) => text.push_str(value),
                Value::Null => {}
                other => text.push_str(&large_integer::to_string(other)),
            },
        }
    }
    Ok(text)
}

/// Looks up the whole name as a key first, then as a path with dots such as `config.max_pages`, because a key may
/// contain dots.
pub(crate) fn value_of<'v>(name: &str, values: &'v Map<String, Value>) -> Option<&'v Value> {
    let path = || {
        let mut steps = name.split('.');
        let first = values.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.as_object()?.get(step))
    };
    values.get(name).or_else(path)
}

fn look_up<'v>(template: &str, name: &str, values: &'v Map<String, Value>) -> Result<&'v Value, TemplateError> {
    value_of(name, values).ok_or_else(|| TemplateError::Unknown {
        template: template.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values() -> Map<String, Value> {
        let values = json!({
            "site": "imot.bg", "start_urls": ["http://a/", "http://b/"], "job_id": "j-1", "pages": 3, "deep": true,
            "none": null, "config": {"max_pages": 9, "nested": {"x": [1]}}, "a.b": "dotted key",
        });
        values.as_object().expect("an object was written above").clone()
    }

    #[test]
    fn a_lone_placeholder_keeps_its_type() {
        for (template, filled) in [
            (json!("{site}"), json!("imot.bg")),
            (json!("{start_urls}"), json!(["http://a/", "http://b/"])),
            (json!("{ pages }"), json!(3)),
            (json!("{deep}"), json!(true)),
            (json!("{none}"), json!(null)),
            (json!("{config}"), json!({"max_pages": 9, "nested": {"x": [1]}})),
            (json!("{config.max_pages}"), json!(9)),
            (json!("{config.nested.x}"), json!([1])),
            (json!("{a.b}"), json!("dotted key")),
            (
                json!(["{site}", {"urls": "{start_urls}", "{site}": 1}]),
                json!(["imot.bg", {"urls": ["http://a/", "http://b/"], "{site}": 1}]),
            ),
            (json!(7), json!(7)),
        ] {
            assert_eq!(fill(&template, &values()), Ok(filled), "{template}");
        }
    }

    #[test]
    fn within_a_longer_text_values_become_text() {
        for (template, filled) in [
            ("scrape_{site}:{job_id}:", "scrape_imot.bg:j-1:"),
            ("{site}{pages}", "imot.bg3"),
            ("p={pages} d={deep} n={none}.", "p=3 d=true n=."),
            ("u={start_urls}", r#"u=["http://a/","http://b/"]"#),
            ("{{site}}", "{site}"),
            ("{{{site}}}", "{imot.bg}"),
            ("", ""),
            ("цена {site} €", "цена imot.bg €"),
        ] {
            assert_eq!(fill_text(template, &values()).as_deref(), Ok(filled), "{template}");
        }
        assert_eq!(
            fill(&json!("{site} "), &values()),
            Ok(json!("imot.bg ")),
            "a space makes it a longer text"
        );
    }

    #[test]
    fn an_error_names_the_template_and_the_placeholder() {
        for (template, expected) in [
            ("{nope}", "uses `{nope}`"),
            ("{config.nope}", "uses `{config.nope}`"),
            ("{site.x}", "uses `{site.x}`"),
            ("a {site", "has a `{` that is not closed"),
            ("a } b", "has a `}` that is not opened"),
            ("{}", "uses `{}`"),
        ] {
            let error = fill_text(template, &values()).expect_err(template).to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }

    #[test]
    fn placeholders_are_listed_in_order() {
        let template = json!(["{site}", {"a": "x{job_id}y{site}"}, 4, "{{no}}"]);
        assert_eq!(
            placeholders(&template),
            Ok(vec!["site".to_owned(), "job_id".to_owned(), "site".to_owned()])
        );
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back(text in any::<String>()) {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(fill_text(&escaped, &Map::new()), Ok(text));
        }

        #[test]
        fn nothing_panics(text in "[{}a. ]{0,20}") {
            let filled = fill(&Value::String(text), &values());
            prop_assert!(filled.is_ok() || filled.is_err());
        }
    }
}
