//! A Redis Cluster of three masters.

use std::time::Duration;

use super::{Server, wait_for};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

const OPTIONS: &[&str] = &[
    "--cluster-enabled",
    "yes",
    // Long enough that a busy machine does not look like a dead node.
    "--cluster-node-timeout",
    "1000",
    // One master's death takes only its own slots away.
    "--cluster-require-full-coverage",
    "no",
    // A replica follows its master at once, and stands in for it however long ago they spoke.
    "--repl-diskless-sync-delay",
    "0",
    "--cluster-replica-validity-factor",
    "0",
];

/// Three masters that share all slots, each with a replica if asked for. Killed when dropped.
///
/// It takes more than two seconds to start: so long a node waits before it serves as a master.
pub struct Cluster {
    /// The three that start as masters, then their replicas in the same order.
    nodes: Vec<Server>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_nodes(MASTERS)
    }

    /// With a replica for each master, which takes over some seconds after its master is killed.
    pub fn start_with_replicas() -> Self {
        Self::start_nodes(2 * MASTERS)
    }

    fn start_nodes(count: usize) -> Self {
        let nodes: Vec<_> = (0..count).map(|_| Server::start_with(OPTIONS)).collect();
        let cluster = Self { nodes };
        for (place, node) in cluster.nodes.iter().enumerate() {
            // Without an epoch each, they would first have to settle whose slots count.
            cluster_command(node, &["SET-CONFIG-EPOCH", &(place + 1).to_string()]);
            if place < MASTERS {
                // One by one: Redis 6.2 has no ADDSLOTSRANGE.
                let slots = place * SLOTS / MASTERS..(place + 1) * SLOTS / MASTERS;
                let slots = slots.collect::<Vec<_>>();
                node.ask::<()>(redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots)).unwrap();
            }
            for other in &cluster.nodes[..place] {
                cluster_command(node, &["MEET", "127.0.0.1", &other.port().to_string()]);
            }
        }
        for (master, replica) in cluster.nodes.iter().zip(&cluster.nodes[MASTERS..]) {
            let id: String = master.ask(redis::cmd("CLUSTER").arg("MYID")).unwrap();
            wait_for("a replica that knows its master", || {
                replica.ask::<()>(redis::cmd("CLUSTER").arg("REPLICATE").arg(&id)).ok()
            });
        }
        wait_for("a cluster that serves", || {
            cluster.nodes.iter().all(|node| cluster.is_ready(node)).then_some(())
        });
        cluster
    }

    /// Whether a node sees the whole cluster at work, itself included.
    fn is_ready(&self, node: &Server) -> bool {
        let info: String = node.ask(redis::cmd("CLUSTER").arg("INFO")).unwrap();
        let has = |line: String| info.lines().any(|found| found == line);
        let serves = has("cluster_state:ok".to_owned())
            && has(format!("cluster_slots_ok:{SLOTS}"))
            && has(format!("cluster_known_nodes:{}", self.nodes.len()));
        let replication: String = node.ask(redis::cmd("INFO").arg("replication")).unwrap();
        serves && !replication.contains("master_link_status:down")
    }

    /// Of every node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// Every node: the three that started as masters, then their replicas in the same order.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Gives the slot of a key to another master, with all keys in it; how many these were. Before the
    /// slot's master is the other one, there is a moment in which it has the keys, and serves only who
    /// is sent to it.
    pub fn move_slot_of(&self, key: &str, moment: impl FnOnce()) -> usize {
        let from = self.master_of(key);
        let to = self.nodes.iter().take(MASTERS).find(|node| node.port() != from.port()).unwrap();
        let slot: u16 = from.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).unwrap();
        let slot = slot.to_string();
        let id = |node: &Server| node.ask::<String>(redis::cmd("CLUSTER").arg("MYID")).unwrap();
        let (from_id, to_id) = (id(from), id(to));
        cluster_command(to, &["SETSLOT", &slot, "IMPORTING", &from_id]);
        cluster_command(from, &["SETSLOT", &slot, "MIGRATING", &to_id]);
        let mut moved = 0;
        loop {
            let mut next = redis::cmd("CLUSTER");
            let keys: Vec<String> = from.ask(next.arg("GETKEYSINSLOT").arg(&slot).arg(1)).unwrap();
            if keys.is_empty() {
                break;
            }
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(to.port()).arg("").arg(0).arg(1_000);
            from.ask::<()>(migrate.arg("KEYS").arg(keys)).unwrap();
            moved += 1;
        }
        moment();
        cluster_command(to, &["SETSLOT", &slot, "NODE", &to_id]);
        cluster_command(from, &["SETSLOT", &slot, "NODE", &to_id]);
        moved
    }

    /// Who serves a key now, as the first node that answers knows it. A master that is dead stays the
    /// one until a replica has taken over.
    pub fn master_of(&self, key: &str) -> &Server {
        let (slot, nodes) = (self.nodes.iter())
            .filter(|node| node.answers_within(Duration::from_secs(1)))
            .find_map(|node| {
                let slot: u16 = node.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).ok()?;
                let nodes: String = node.ask(redis::cmd("CLUSTER").arg("NODES")).ok()?;
                Some((slot, nodes))
            })
            .expect("a node answers");
        let line = nodes.lines().find(|line| serves(line, slot)).expect("every slot is served");
        let is_it = |node: &&Server| line.contains(&format!(" 127.0.0.1:{}@", node.port()));
        self.nodes.iter().find(is_it).expect("the node is one of ours")
    }
}

/// Whether a line of CLUSTER NODES is of the master of a slot: its eight fields are followed by slots.
fn serves(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (first.parse().unwrap()..=last.parse::<u16>().unwrap()).contains(&slot)
    })
}

fn cluster_command(node: &Server, words: &[&str]) {
    node.ask::<()>(redis::cmd("CLUSTER").arg(words)).unwrap();
}
