//! A client that keeps some connections busy, each with one request in flight.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use axum::http::StatusCode;

use crate::common::{API_KEY, keys::key, routers::KEYS};

const CONNECTIONS: usize = 32;

pub struct Client {
    connections: Vec<BufReader<TcpStream>>,
    requests: Vec<String>,
    /// How the status line of each answer begins.
    status: String,
    asked: usize,
}

impl Client {
    /// It expects `status` of all answers.
    pub fn connect(address: SocketAddr, status: StatusCode) -> Self {
        let connect = |_| {
            let stream = TcpStream::connect(address).expect("a connection");
            stream.set_nodelay(true).expect("a socket option");
            BufReader::new(stream)
        };
        let request =
            |n| format!("GET / HTTP/1.1\r\nhost: localhost\r\n{API_KEY}: {}\r\n\r\n", key(n));
        Self {
            connections: (0..CONNECTIONS).map(connect).collect(),
            requests: (0..KEYS).map(request).collect(),
            status: format!("HTTP/1.1 {} ", status.as_str()),
            asked: 0,
        }
    }

    /// Asks that many times, and reads all answers.
    pub fn ask(&mut self, times: usize) {
        let (mut line, mut body) = (String::new(), Vec::new());
        for _ in 0..times / CONNECTIONS {
            for connection in &mut self.connections {
                let request = &self.requests[self.asked % self.requests.len()];
                connection.get_mut().write_all(request.as_bytes()).expect("sent");
                self.asked += 1;
            }
            for connection in &mut self.connections {
                read_answer(connection, &self.status, &mut line, &mut body);
            }
        }
    }
}

fn read_answer(
    connection: &mut BufReader<TcpStream>,
    status: &str,
    line: &mut String,
    body: &mut Vec<u8>,
) {
    line.clear();
    connection.read_line(line).expect("a status line");
    assert!(line.starts_with(status), "expected {status}, got {line}");
    let mut length = None;
    loop {
        line.clear();
        connection.read_line(line).expect("a header line");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        if name == "content-length" {
            length = value.parse().ok();
        }
    }
    body.resize(length.expect("the length of the body"), 0);
    connection.read_exact(body).expect("a body");
}
