//! Targets: messages, files and texts behind the signature of `orch::fuzzing`, and the files of a configuration.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use orch::celery::fuzzing::DECODERS;
use orch::config::{Config, LoadOptions};
use orch::fuzzing::READERS;
use serde_json::Value;

use crate::corpus;

/// Outcome of an input.
pub struct Outcome {
    /// The input was not refused.
    pub is_read: bool,
    /// Number that is equal for inputs that have likely taken the same path.
    pub kind: u64,
}

/// Function that reads an input to its end.
pub type Reader = Box<dyn FnMut(&[u8]) -> Outcome>;

pub struct Target {
    pub name: String,
    pub read: Reader,
    /// Correct inputs, and inputs that have shown something new.
    pub corpus: Vec<Vec<u8>>,
    /// Words that have a meaning for the target.
    pub words: &'static [&'static str],
    /// Bytes of memory that the target may take for each byte of its input, and in addition.
    pub growth: usize,
    pub allowance: usize,
}

/// Returns all targets; files of configurations are written into `place`.
pub fn all(place: &Path) -> Vec<Target> {
    let readers = READERS.into_iter().map(|(name, read)| Target {
        name: name.to_owned(),
        read: Box::new(move |input| printed(read(input), input)),
        corpus: corpus::of_texts(name),
        words: corpus::WORDS,
        growth: 256,
        allowance: 256 << 10,
    });
    let decoders = DECODERS.into_iter().map(|(name, decode)| Target {
        name: name.to_owned(),
        read: Box::new(move |input| {
            let message = on_the_wire(input);
            printed(decode(message.as_deref().unwrap_or(input)), input)
        }),
        corpus: corpus::of_messages(name),
        words: corpus::WORDS,
        growth: 256,
        allowance: 64 << 10,
    });
    let mut targets: Vec<Target> = readers.chain(decoders).collect();
    for kind in ["toml", "yaml", "json"] {
        let sites = format!("sites.{kind}");
        let around = format!("[orch]\nsites_file = '{sites}'\n[sites.defaults]\ndispatch = 't'\n");
        targets.push(configuration(
            &format!("sites file {kind}"),
            place.join(kind),
            Some((&sites, &around)),
            corpus::of_sites(kind),
        ));
    }
    let around = "orch.env_file = '.env'\nredis.mode = 'off'\n";
    targets.push(configuration(
        "env file",
        place.join("env"),
        Some((".env", around)),
        corpus::of_env_files(),
    ));
    targets.push(configuration(
        "configuration",
        place.join("configuration"),
        None,
        corpus::of_configurations(),
    ));
    targets
}

/// Returns an outcome whose kind depends on the lengths of input and output.
fn printed(length: usize, input: &[u8]) -> Outcome {
    let class = |length: usize| u64::from(usize::BITS - length.leading_zeros());
    let in_steps = (length / 8).min(64) as u64;
    Outcome {
        is_read: length > 0,
        kind: class(length) << 32 | class(input.len()) << 16 | in_steps,
    }
}

/// Encodes the body of an envelope whose body is not encoded yet; returns anything else unchanged.
fn on_the_wire(input: &[u8]) -> Option<Vec<u8>> {
    let mut envelope: Value = serde_json::from_slice(input).ok()?;
    let message = match &mut envelope {
        // A value of `unacked` is a list whose first item is the envelope.
        Value::Array(items) => items.first_mut()?,
        message => message,
    };
    let body = message.get_mut("body")?;
    if body.is_string() {
        return None;
    }
    *body = Value::String(BASE64.encode(body.to_string()));
    Some(envelope.to_string().into_bytes())
}

/// Creates the target of a configuration file in a directory of its own: `orch.toml`, or a file of this name that this
/// `orch.toml` names.
fn configuration(name: &str, place: PathBuf, named: Option<(&str, &str)>, corpus: Vec<Vec<u8>>) -> Target {
    fs::create_dir_all(&place).unwrap();
    let file = place.join(named.map_or("orch.toml", |(file, _)| file));
    if let Some((_, around)) = named {
        fs::write(place.join("orch.toml"), around).unwrap();
    }
    Target {
        name: name.to_owned(),
        read: Box::new(move |input| {
            fs::write(&file, input).unwrap();
            let loaded = Config::load(LoadOptions {
                directory: place.clone(),
                environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
                ..LoadOptions::default()
            });
            match loaded {
                Ok(config) => printed(format!("{config:?}").len(), input),
                Err(errors) => {
                    assert!(errors.count() > 0, "refused without a reason");
                    Outcome {
                        is_read: false,
                        kind: said(&errors.to_string()),
                    }
                }
            }
        }),
        corpus,
        words: corpus::WORDS,
        growth: 512,
        allowance: 1 << 20,
    }
}

/// Returns the hash of the errors' titles without the quoted parts.
fn said(errors: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for line in errors.lines().filter(|line| line.starts_with("error")) {
        for (number, part) in line.split('`').enumerate() {
            if number % 2 == 0 {
                let plain = part.chars().filter(|letter| !letter.is_ascii_digit());
                plain.collect::<String>().hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}
