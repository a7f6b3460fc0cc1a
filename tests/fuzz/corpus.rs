//! Correct inputs, from which wrong inputs are made.

use std::fs;
use std::path::{Path, PathBuf};

use orch::celery::fuzzing::TICKET;
use serde_json::{Value, json};

/// Words that have a meaning in one of the formats.
pub const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ":",
    ",",
    "'",
    "\"",
    "\"\"\"",
    "'''",
    "\\",
    "\\u",
    "\\ud800",
    "\\x1b",
    "...",
    "<",
    ">",
    "b'",
    "f(",
    "-",
    "--- ",
    "- ",
    "? ",
    "|\n",
    "1",
    "0.",
    "e9",
    "1e999",
    "NaN",
    "Infinity",
    "None",
    "null",
    "true",
    "~",
    "\n",
    "\r\n",
    " ",
    "\t",
    "#",
    "=",
    "/",
    "@",
    "://",
    "u:p@",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{0}",
    "\u{1f600}",
    "ü",
    "a",
    "&a ",
    "*a",
    "!!str ",
    "<<: *a",
    "${A:-",
    "export ",
    "{ports.web}",
    "{site}",
    "{config.pages}",
    "9223372036854775808",
    "-1",
    "0x7f",
    "5s",
    "1h30m",
    "18446744073709551616",
    "253402300799.9",
    "2026-13-99T99:99:99Z",
    "512MiB",
    "60%",
    "[sites.\"a\"]\n",
    "[services.a]\n",
    "[redis]\n",
    "[orch]\n",
    "after = [\"a\"]\n",
    "\"host\": ",
    "\"port\": 1,",
    "{'job_id': ",
    "\"body\": ",
    "\"headers\": ",
    "\"event\":\"run_started\",\"format\":1",
    "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n",
];

/// Versions of Celery whose recorded frames are used.
const VERSIONS: [&str; 6] = ["5.2.7", "5.3.6", "5.4.0", "5.5.3", "5.6.3", "5.7.0"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns inputs for a reader of files and texts.
pub fn of_texts(name: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match name {
        "journal" => {
            let journals = fs::read_dir(root().join("tests/fixtures/journals")).unwrap();
            let journals = journals.map(|entry| entry.unwrap().path());
            let mut journals: Vec<PathBuf> = journals
                .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
                .collect();
            journals.sort();
            return journals.iter().map(|path| bytes(path)).collect();
        }
        "proxy pool" => &[
            r#"[{"host": "10.0.0.1", "port": 3128, "anonymity": "Elite", "last_checked": "2026-01-01T00:00:00Z", "works": true}]"#,
            r#"{"proxies": [{"ip": "::1", "port": "8080", "checked_at": 1795437567.95}], "total": 1}"#,
            r#"{"a": {"proxy": "http://u:p@host:80"}, "b": ["socks5://host:1080"]}"#,
            "[\"http://h:1\", \"h:2\"]\n",
        ],
        _ => &[
            "{'job_id': 'a', 'chord_id': 'b', 'n': [1, None, True, 2.5e3], 'c': (1,), 'd': {1, 2}}",
            r#"{"job_id": "a", "chord_id": "b", "total_urls": 10, "total_chunks": 2, "status": "NO_URLS"}"#,
            "<AsyncResult: 3f0c2f2e-1a2b-4c3d-8e9f-000000000001>",
            r#"[["3f0c2f2e-1a2b-4c3d-8e9f-000000000001", null], [["a", null], ["b", null]]]"#,
            "datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) b'bytes' u'text' ...",
            "redis://:passw0rd@host:6379/0 and https://user:secret@host/?q=1 \u{1b}[31m\u{202e}",
        ],
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Returns inputs for a decoder of Celery's messages: the recorded messages of its kind, with bodies that are not
/// encoded.
pub fn of_messages(name: &str) -> Vec<Vec<u8>> {
    let topics: &[&str] = match name {
        "control reply" => &["control"],
        "event" => &["events"],
        "result" => &["results"],
        "unacked" => &["unacked"],
        _ => &["chain"],
    };
    let mut messages = Vec::new();
    for version in VERSIONS {
        for topic in topics {
            let path = root().join(format!("tests/fixtures/celery/{version}/{topic}.json"));
            let frames: Value = serde_json::from_slice(&bytes(&path)).unwrap();
            let frames = match frames {
                frames if *topic == "unacked" => vec![frames],
                Value::Array(items) => items,
                Value::Object(fields) => fields.into_iter().map(|(_, value)| value).collect(),
                other => panic!("{}: {other}", path.display()),
            };
            for mut frame in frames {
                if *topic == "control" {
                    frame = frame["reply"].take();
                    frame["headers"]["ticket"] = json!(TICKET);
                    frame["body"]["ticket"] = json!(TICKET);
                }
                messages.push(frame.to_string().into_bytes());
            }
        }
    }
    messages
}

pub fn of_configurations() -> Vec<Vec<u8>> {
    let reference = String::from_utf8(bytes(&root().join("config/orch.toml"))).unwrap();
    // Every second line of the reference is a comment or switched off; one text has all of it.
    let mut texts = vec![reference.replace("\n#", "\n"), reference];
    for example in ["orch.toml", "bad-night.toml"] {
        texts.push(String::from_utf8(bytes(&root().join("examples/bookshop").join(example))).unwrap());
    }
    // Small texts, in which a change is more likely to matter.
    texts.extend(
        [
            "[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"sleep\", \"600\"]\nreadiness = { tcp = \"127.0.0.1:1\" }\n",
            "[redis]\nmode = \"off\"\n[services.a]\ncommand = [\"sh\"]\nafter = [\"b\"]\n[services.b]\ncommand = [\"sh\"]\n",
            "[ports]\nweb = 4000\n[services.web]\ncommand = [\"sh\", \"{ports.web}\"]\nrestart = { limit = 3, window = \"5m\" }\n",
            "[celery]\napp = \"a.b\"\nqueues = [\"q\"]\n[sites.\"x\"]\ndispatch = { task = \"t\", args = [\"{site}\"] }\nafter = [\"y\"]\n\
             [sites.y]\nmin_results = \"60%\"\nuses = { a = 1 }\n[resources]\na = 2\n[groups]\ng = [\"x*\", \"tag:t\"]\n",
        ]
        .map(str::to_owned),
    );
    texts.into_iter().map(String::into_bytes).collect()
}

pub fn of_sites(kind: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match kind {
        "yaml" => &[
            "a:\n  - https://a.example/\n  - 'https://b.example/?q=1'\nb:\n  urls: [x, y]\n  config: {pages: 3, deep: [1, {k: v}]}\n  after: [a]\n",
            "base: &base\n  urls: [u]\n  tags: [t]\ntwo:\n  <<: *base\n  min_results: 60%\n\"three\": |\n  text\n",
            "---\n? k\n: [1, 2.5, ~, true, 0x1f]\n...\n",
        ],
        "json" => &[
            r#"{"a": ["https://a.example/"], "b": {"urls": ["x"], "config": {"pages": 3, "n": null}, "after": ["a"], "tags": ["t"]}}"#,
            r#"{"a": ["https://a.example/"], "b": {"urls": ["x"], "config": {"pages": 3, "n": null}, "after_any": ["a"], "uses": {"r": 1}}}"#,
            r#"{"ü\u00e9\ud83d\ude00": {"urls": [], "min_results": 5}}"#,
        ],
        _ => &[
            "a = [\"https://a.example/\"]\n[b]\nurls = ['x']\nconfig = { pages = 3, day = 2026-01-01T00:00:00Z }\nafter = [\"a\"]\n",
            "[\"c.d\"]\nurls = [\"\"\"\nx\"\"\"]\nmin_results = \"60%\"\ntags = [\"t\"]\n[[e.urls]]\nx = 1\n",
        ],
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub fn of_env_files() -> Vec<Vec<u8>> {
    let texts = [
        "A=1\nexport B='two words'\nC=\"x ${A} ${D:-default}\\n\"\n# comment\nE=\n",
        "PASSWORD=p#ss\nURL=redis://:p@h:1/0 # tail\nLONG=\"a\nb\"\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
