//! The same server without this crate: its commands, over a connection of the same kind.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use redis::{Cmd, Value, aio::MultiplexedConnection};

use crate::harness::Server;

/// A command that is sent again and again.
#[derive(Clone)]
pub struct Bare {
    connection: MultiplexedConnection,
    command: Cmd,
}

impl Bare {
    pub async fn new(server: &Server, command: Cmd) -> Self {
        let client = redis::Client::open(server.url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await.expect("a connection");
        Self { connection, command }
    }

    pub async fn send(&mut self) {
        let answer: Value =
            self.command.query_async(&mut self.connection).await.expect("an answer");
        std::hint::black_box(answer);
    }
}

/// What passes through on the way to a server.
pub struct Tap {
    port: u16,
    passed: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    pub fn before(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let passed = Arc::<Mutex<Vec<u8>>>::default();
        let (sink, to) = (Arc::clone(&passed), server.port());
        thread::spawn(move || {
            let Ok((mut client, _)) = listener.accept() else { return };
            let mut server = TcpStream::connect(("127.0.0.1", to)).expect("the server");
            let (mut answers, mut back) =
                (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let mut bytes = [0; 4_096];
            while let Ok(length @ 1..) = client.read(&mut bytes) {
                sink.lock().expect("no panic").extend(&bytes[..length]);
                if server.write_all(&bytes[..length]).is_err() {
                    return;
                }
            }
        });
        Self { port, passed }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The last command of this name.
    pub fn last(&self, name: &str) -> Cmd {
        let passed = self.passed.lock().expect("no panic");
        let mut rest = &passed[..];
        let mut last = None;
        while !rest.is_empty() {
            let arguments = (0..length(&mut rest, b'*')).map(|_| {
                let length = length(&mut rest, b'$');
                let (argument, after) = rest.split_at(length);
                rest = &after[2..];
                argument
            });
            let arguments: Vec<&[u8]> = arguments.collect();
            if arguments[0] == name.as_bytes() {
                last = Some(arguments);
            }
        }
        let mut command = Cmd::new();
        last.expect("it has passed").into_iter().for_each(|argument| {
            command.arg(argument);
        });
        command
    }
}

/// A line of the protocol (RESP) that begins with `kind` and says how much follows.
fn length(rest: &mut &[u8], kind: u8) -> usize {
    let end = rest.windows(2).position(|two| two == b"\r\n").expect("a whole line");
    let (line, after) = rest.split_at(end);
    *rest = &after[2..];
    assert_eq!(line[0], kind, "commands are arrays of strings");
    std::str::from_utf8(&line[1..]).ok().and_then(|number| number.parse().ok()).expect("a number")
}
