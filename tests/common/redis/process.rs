//! A process that ends with the test, however the test ends.

use std::{
    fs::File,
    io,
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        mpsc::{self, Sender},
    },
    thread,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Killed when dropped, also while it is paused.
pub struct Process(Child);

impl Process {
    /// Runs a program whose output goes into a file.
    pub fn start(program: &str, args: &[String], log: File) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(args);
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        Self(spawn(command).expect("there is setpriv, of the package util-linux"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// It does nothing more from here on, while its sockets stay open.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        // The signal has been sent, but it may not have arrived.
        let stopped = waitpid(Some(Pid::from_child(&self.0)), WaitOptions::UNTRACED);
        assert!(stopped.unwrap().is_some_and(|(_, status)| status.stopped()), "it has ended");
    }

    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        // The id of a process that has ended may be another's by now.
        assert!(!self.has_ended(), "there is a process to signal");
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Kills it without a chance to tidy up, and waits until it is gone.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process from a thread that lives as long as this process does.
///
/// The kernel sends the parent's death signal when the *thread* that started the child ends. A test's
/// own thread would be too short for a server that several tests share, and so would one that a
/// runtime uses for blocking work, which ends when it is idle.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = mpsc::channel();
    SPAWNER.send((command, reply)).unwrap();
    child.recv().unwrap()
}
