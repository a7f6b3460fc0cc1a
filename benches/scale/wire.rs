//! A connection to Redis for a process that sends much and rarely waits; counts the sent commands.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Reply of Redis, as far as the simulated worker needs it.
pub enum RedisReply {
    Nil,
    Text(Vec<u8>),
    List(Vec<RedisReply>),
    /// Number or status; the value is not needed.
    Other,
}

impl RedisReply {
    pub fn into_list(self) -> Vec<RedisReply> {
        match self {
            RedisReply::List(items) => items,
            _ => Vec::new(),
        }
    }

    pub fn into_text(self) -> Vec<u8> {
        match self {
            RedisReply::Text(text) => text,
            _ => Vec::new(),
        }
    }
}

pub struct CountingConnection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    batch: Vec<u8>,
    unanswered: usize,
    /// Number of sent commands, by name.
    pub sent: BTreeMap<String, u64>,
}

impl CountingConnection {
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

    /// Adds a command to the batch.
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

    /// Sends the batch and waits for all replies.
    pub fn flush(&mut self) {
        self.writer.write_all(&self.batch).unwrap();
        self.batch.clear();
        for _ in 0..std::mem::take(&mut self.unanswered) {
            self.read();
        }
    }

    pub fn ask(&mut self, parts: &[&[u8]]) -> RedisReply {
        self.flush();
        self.add(parts);
        self.unanswered = 0;
        self.writer.write_all(&self.batch).unwrap();
        self.batch.clear();
        self.read()
    }

    pub fn read(&mut self) -> RedisReply {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "-" => panic!("Redis: {rest}"),
            "$" | "*" if rest.starts_with('-') => RedisReply::Nil,
            "$" => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.reader.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                RedisReply::Text(text)
            }
            "*" => RedisReply::List((0..rest.parse::<usize>().unwrap()).map(|_| self.read()).collect()),
            _ => RedisReply::Other,
        }
    }
}
