//! A connection to Redis for a process that sends much and waits seldom, and counts what it sends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// What Redis answers, as far as the stand-in needs to know.
pub enum Reply {
    Nil,
    Text(Vec<u8>),
    List(Vec<Reply>),
    /// A number, or a status.
    Other,
}

impl Reply {
    pub fn into_list(self) -> Vec<Reply> {
        match self {
            Reply::List(items) => items,
            _ => Vec::new(),
        }
    }

    pub fn into_text(self) -> Vec<u8> {
        match self {
            Reply::Text(text) => text,
            _ => Vec::new(),
        }
    }
}

pub struct Wire {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    batch: Vec<u8>,
    unanswered: usize,
    /// Commands sent, by name.
    pub sent: BTreeMap<String, u64>,
}

impl Wire {
    pub fn connect(port: u16, database: u32) -> Self {
        let writer = TcpStream::connect(("127.0.0.1", port)).unwrap();
        writer.set_nodelay(true).unwrap();
        let reader = BufReader::with_capacity(1 << 18, writer.try_clone().unwrap());
        let mut wire = Self {
            writer,
            reader,
            batch: Vec::new(),
            unanswered: 0,
            sent: BTreeMap::new(),
        };
        wire.ask(&[b"SELECT", database.to_string().as_bytes()]);
        wire
    }

    /// Puts a command into the batch.
    pub fn add(&mut self, parts: &[&[u8]]) {
        let name = String::from_utf8_lossy(parts[0]).to_ascii_lowercase();
        match self.sent.get_mut(&name) {
            Some(count) => *count += 1,
            None => {
                self.sent.insert(name, 1);
            }
        }
        write!(self.batch, "*{}\r\n", parts.len()).unwrap();
        for part in parts {
            write!(self.batch, "${}\r\n", part.len()).unwrap();
            self.batch.extend_from_slice(part);
            self.batch.extend_from_slice(b"\r\n");
        }
        self.unanswered += 1;
    }

    /// Sends the batch and waits until all of it is answered.
    pub fn flush(&mut self) {
        self.writer.write_all(&self.batch).unwrap();
        self.batch.clear();
        for _ in 0..std::mem::take(&mut self.unanswered) {
            self.read();
        }
    }

    pub fn ask(&mut self, parts: &[&[u8]]) -> Reply {
        self.flush();
        self.add(parts);
        self.unanswered = 0;
        self.writer.write_all(&self.batch).unwrap();
        self.batch.clear();
        self.read()
    }

    pub fn read(&mut self) -> Reply {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "-" => panic!("Redis: {rest}"),
            "$" | "*" if rest.starts_with('-') => Reply::Nil,
            "$" => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.reader.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Reply::Text(text)
            }
            "*" => Reply::List((0..rest.parse::<usize>().unwrap()).map(|_| self.read()).collect()),
            _ => Reply::Other,
        }
    }
}
