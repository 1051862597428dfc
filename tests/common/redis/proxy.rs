//! A network between a client and a server, which fails on demand.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Server, port::free_port, wait_for};

/// Passes bytes between clients and a server, and fails on command. Connections end when it is
/// dropped.
///
/// It cannot stand before a cluster, which sends its clients to the nodes' own ports.
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    listener: Mutex<Option<Listener>>,
}

/// What all connections share.
struct Network {
    /// The port of the server.
    server: AtomicU16,
    behaviour: Mutex<Behaviour>,
    connections: AtomicU64,
    commands: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Behaviour {
    swallows: bool,
    delay: Duration,
    /// The commands whose replies are to be lost: a name, and how many more of it.
    loses: Option<(String, u32)>,
    /// The client's and the server's side of each open connection.
    open: HashMap<u64, [TcpStream; 2]>,
}

impl Proxy {
    pub fn before(server: &Server) -> Self {
        let network = Arc::new(Network {
            server: AtomicU16::new(server.port()),
            behaviour: Mutex::default(),
            connections: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        for _ in 0..10 {
            let port = free_port();
            if let Ok(listener) = Listener::start(port, &network) {
                return Self { port, network, listener: Mutex::new(Some(listener)) };
            }
        }
        panic!("others take each free port first");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Ends every fault. Connections that have swallowed something end too: on them, a later reply
    /// would answer the wrong command, which no real network does.
    pub fn pass(&self) {
        let mut behaviour = self.network.behaviour();
        if behaviour.swallows {
            behaviour.drop_connections();
        }
        behaviour.swallows = false;
        behaviour.delay = Duration::ZERO;
        behaviour.loses = None;
        drop(behaviour);
        self.listener.lock().unwrap().get_or_insert_with(|| {
            wait_for("the proxy's port", || Listener::start(self.port, &self.network).ok())
        });
    }

    /// Refuses new connections, as a port does where nothing listens. Open ones stay.
    pub fn refuse_connections(&self) {
        *self.listener.lock().unwrap() = None;
        // A process that is being started has a copy of our sockets, until it runs its own program.
        wait_for("the proxy's port to close", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err().then_some(())
        });
    }

    /// Ends all open connections now. New ones are taken.
    pub fn drop_connections(&self) {
        self.network.behaviour().drop_connections();
    }

    /// New connections go to another server, and open ones end: as a name does after a fail-over.
    pub fn lead_to(&self, server: &Server) {
        self.network.server.store(server.port(), SeqCst);
        self.drop_connections();
    }

    /// Loses the replies to the next `times` commands of that name: the server carries out each, and
    /// then its connection ends without the reply.
    pub fn lose_replies(&self, command: &str, times: u32) {
        self.network.behaviour().loses = Some((command.to_owned(), times));
    }

    /// Each reply comes later by this from now on.
    pub fn delay_replies(&self, delay: Duration) {
        self.network.behaviour().delay = delay;
    }

    /// From now on takes connections and commands, and neither passes them on nor answers.
    pub fn swallow(&self) {
        self.network.behaviour().swallows = true;
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> u64 {
        self.network.connections.load(SeqCst)
    }

    /// How many commands clients have sent through it to the server.
    pub fn commands(&self) -> u64 {
        self.network.commands.load(SeqCst)
    }

    /// How many bytes clients have sent through it to the server.
    pub fn bytes(&self) -> u64 {
        self.network.bytes.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        *self.listener.get_mut().unwrap() = None;
        self.drop_connections();
    }
}

/// Takes connections in a thread, until dropped.
struct Listener {
    port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(port: u16, network: &Arc<Network>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let (ends, network) = (Arc::new(AtomicBool::new(false)), network.clone());
        let seen = ends.clone();
        let thread = thread::spawn(move || {
            for client in listener.incoming().take_while(|_| !seen.load(SeqCst)) {
                let _ = client.and_then(|client| network.connect(client));
            }
        });
        Ok(Self { port, ends, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        // It sees that after one connection more.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Behaviour {
    fn drop_connections(&mut self) {
        for [client, server] in self.open.values() {
            // One that has just ended by itself cannot be shut down, and need not be.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}

impl Network {
    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// Serves a connection in threads of its own.
    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let id = self.connections.fetch_add(1, SeqCst);
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server.load(SeqCst)))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let [commands, replies] = [client.try_clone()?, server.try_clone()?];
        let [to_client, to_server] = [client.try_clone()?, server.try_clone()?];
        self.behaviour().open.insert(id, [client, server]);
        let is_lost = Arc::new(AtomicBool::new(false));
        let (network, loses) = (self.clone(), is_lost.clone());
        thread::spawn(move || {
            let _ = network.pass_commands(BufReader::new(commands), &to_server, &loses);
            // The server reads and carries out what it was sent, before it sees this and ends as well.
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let network = self.clone();
        thread::spawn(move || {
            let _ = network.pass_replies(replies, to_client, &is_lost);
            if let Some([client, server]) = network.behaviour().open.remove(&id) {
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            }
        });
        Ok(())
    }

    /// Until the client ends, or a reply is to be lost.
    fn pass_commands(
        &self,
        mut from: impl BufRead,
        mut to: &TcpStream,
        is_lost: &AtomicBool,
    ) -> io::Result<()> {
        while let Some((name, bytes)) = next_command(&mut from)? {
            let mut behaviour = self.behaviour();
            if behaviour.swallows {
                continue;
            }
            if let Some((lost, times)) = &mut behaviour.loses
                && *times > 0
                && lost.eq_ignore_ascii_case(&name)
            {
                *times -= 1;
                is_lost.store(true, SeqCst);
            }
            drop(behaviour);
            self.commands.fetch_add(1, SeqCst);
            self.bytes.fetch_add(bytes.len() as u64, SeqCst);
            to.write_all(&bytes)?;
            if is_lost.load(SeqCst) {
                break;
            }
        }
        Ok(())
    }

    /// Until the server ends: each after its delay, while others come in.
    fn pass_replies(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        is_lost: &AtomicBool,
    ) -> io::Result<()> {
        let (sender, delayed) = mpsc::channel::<(Instant, Vec<u8>)>();
        let writer = thread::spawn(move || {
            for (due, bytes) in delayed {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                to.write_all(&bytes)?;
            }
            io::Result::Ok(())
        });
        let mut buffer = vec![0; 65_536];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            if !is_lost.load(SeqCst) {
                let due = Instant::now() + self.behaviour().delay;
                let _ = sender.send((due, buffer[..read].to_vec()));
            }
        }
        drop(sender);
        writer.join().unwrap()
    }
}

/// Reads a command: its name, and all its bytes. Clients send arrays of strings, with their lengths.
fn next_command(from: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut name = String::new();
    if from.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    for place in 0..number(&bytes)? {
        let start = bytes.len();
        from.read_until(b'\n', &mut bytes)?;
        let (length, start) = (number(&bytes[start..])?, bytes.len());
        from.take(length + 2).read_to_end(&mut bytes)?;
        if place == 0 {
            name = String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned();
        }
    }
    Ok(Some((name, bytes)))
}

/// Of a line such as `*3` or `$7`.
fn number(line: &[u8]) -> io::Result<u64> {
    let number = str::from_utf8(line).ok().and_then(|line| line.get(1..)?.trim_end().parse().ok());
    number.ok_or_else(|| io::Error::other("no command begins like this"))
}
