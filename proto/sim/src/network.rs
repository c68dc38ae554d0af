//! A network of nodes in virtual time: reliable, ordered connections as QUIC makes them, and their cost.
//!
//! A node has an uplink rate; a pair has a round trip and can be cut. A connection over a cut pair stalls: what was sent
//! arrives when the cut heals, unless the idle timeout ends the connection at both ends first. A node that crashes is
//! noticed by the idle timeout too, or when it is back and answers a packet of the old connection.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

/// A node, by index.
pub type Node = usize;
/// A connection.
pub type Connection = u64;

/// How often an idle connection sends something; the daemon's value.
pub const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// How long a connection lives without receiving anything; the daemon's value.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a dial is tried.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// IP bytes of a keep-alive and its acknowledgement, both directions together.
const KEEP_ALIVE_LEN: u64 = 130;
/// IP bytes of a mutual TLS 1.3 handshake without MTU discovery, both directions together (measured with quinn).
const HANDSHAKE_LEN: u64 = 4300;
/// IP bytes of a first packet, which is what a dial to nobody costs; sent 4 times in [`DIAL_TIMEOUT`].
const UNANSWERED_LEN: u64 = 4 * 1250;
/// Bytes of a message that fit a packet.
const PACKET_PAYLOAD: u64 = 1150;
/// IP, UDP, QUIC header, tag and stream frame of a packet.
const PACKET_OVERHEAD: u64 = 65;
/// An acknowledgement, sent for every second packet.
const ACK_LEN: u64 = 70;
/// Length prefix of a message.
const LENGTH_LEN: u64 = 4;

/// What happens at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection stands.
    Connected {
        /// Where.
        node: Node,
        /// Which.
        connection: Connection,
        /// With whom.
        peer: Node,
        /// What was given to [`Network::dial`], at the end that dialled.
        token: Option<u64>,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Where.
        node: Node,
        /// What was given to [`Network::dial`].
        token: u64,
    },
    /// A message has arrived.
    Message {
        /// Where.
        node: Node,
        /// On which connection.
        connection: Connection,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A connection has ended.
    Disconnected {
        /// Where.
        node: Node,
        /// Which.
        connection: Connection,
    },
    /// A wake-up that was asked for.
    Wake {
        /// Where.
        node: Node,
        /// As in [`Network::wake_at`].
        at: Duration,
    },
}

/// Bytes at one node, both directions together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages with their lengths, as sent.
    pub sent: u64,
    /// Messages with their lengths, as received.
    pub received: u64,
    /// IP bytes of messages, acknowledgements, handshakes and keep-alives.
    pub wire: u64,
    /// Of these, keep-alives.
    pub keep_alive: u64,
    /// Of these, handshakes and unanswered dials.
    pub handshakes: u64,
}

#[derive(Debug)]
struct Line {
    ends: [Node; 2],
    since: Duration,
    /// When a message sent now to this end arrives at the earliest: messages keep their order.
    arrival: [Duration; 2],
    /// Arrived at this end of a cut.
    held: [Vec<Vec<u8>>; 2],
    /// Events for an end that has gone are dropped.
    open: [bool; 2],
}

impl Line {
    fn end_of(&self, node: Node) -> usize {
        usize::from(self.ends[1] == node)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Pending {
    Connect {
        from: Node,
        to: Node,
        token: u64,
        begun: Duration,
    },
    Accept {
        connection: Connection,
    },
    DialFailed {
        node: Node,
        token: u64,
    },
    Message {
        connection: Connection,
        end: usize,
        bytes: Vec<u8>,
    },
    Disconnect {
        connection: Connection,
        end: usize,
    },
    /// Ends the connection if it is still cut off since then.
    Timeout {
        connection: Connection,
        cut: u64,
    },
    Wake {
        node: Node,
    },
}

#[derive(Debug)]
struct NodeState {
    up: bool,
    /// Bytes per second.
    uplink: u64,
    /// When the uplink has sent what it was given.
    free_at: Duration,
    wake_at: Option<Duration>,
    traffic: Traffic,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    now: Duration,
    nodes: Vec<NodeState>,
    /// Round trips by pair, the lower index first.
    rtts: BTreeMap<(Node, Node), Duration>,
    rtt: Duration,
    /// Cut pairs, with the number of the cut.
    cuts: BTreeMap<(Node, Node), u64>,
    cut_count: u64,
    lines: BTreeMap<Connection, Line>,
    /// Connections of a node.
    by_node: Vec<BTreeSet<Connection>>,
    next_connection: Connection,
    queue: BinaryHeap<Reverse<(Duration, u64, Pending)>>,
    next_number: u64,
}

fn pair(a: Node, b: Node) -> (Node, Node) {
    (a.min(b), a.max(b))
}

impl Network {
    /// A network of nodes that are all off, with one round trip for all pairs and one uplink in bytes per second.
    pub fn new(nodes: usize, rtt: Duration, uplink: u64) -> Self {
        Self {
            now: Duration::ZERO,
            nodes: (0..nodes)
                .map(|_| NodeState {
                    up: false,
                    uplink,
                    free_at: Duration::ZERO,
                    wake_at: None,
                    traffic: Traffic::default(),
                })
                .collect(),
            rtts: BTreeMap::new(),
            rtt,
            cuts: BTreeMap::new(),
            cut_count: 0,
            lines: BTreeMap::new(),
            by_node: vec![BTreeSet::new(); nodes],
            next_connection: 0,
            queue: BinaryHeap::new(),
            next_number: 0,
        }
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Sets the round trip of a pair.
    pub fn set_rtt(&mut self, a: Node, b: Node, rtt: Duration) {
        self.rtts.insert(pair(a, b), rtt);
    }

    /// The round trip of a pair.
    pub fn rtt(&self, a: Node, b: Node) -> Duration {
        self.rtts.get(&pair(a, b)).copied().unwrap_or(self.rtt)
    }

    /// What a node has cost so far.
    pub fn traffic(&self, node: Node) -> Traffic {
        let mut traffic = self.nodes[node].traffic;
        // Connections that stand have not been billed yet.
        for connection in &self.by_node[node] {
            let line = &self.lines[connection];
            let bytes = keep_alives(self.now - line.since);
            traffic.keep_alive += bytes;
            traffic.wire += bytes;
        }
        traffic
    }

    /// Number of connections of a node.
    pub fn degree(&self, node: Node) -> usize {
        self.by_node[node].len()
    }

    /// Connections that stand, with their ends.
    pub fn connections(&self) -> impl Iterator<Item = (Connection, [Node; 2])> + '_ {
        self.lines
            .iter()
            .filter(|(_, line)| line.open == [true, true])
            .map(|(connection, line)| (*connection, line.ends))
    }

    /// The other end of a connection.
    pub fn peer(&self, connection: Connection, node: Node) -> Option<Node> {
        let line = self.lines.get(&connection)?;
        Some(line.ends[1 - line.end_of(node)])
    }

    /// Turns a node on.
    pub fn start(&mut self, node: Node) {
        self.nodes[node].up = true;
        self.nodes[node].wake_at = None;
    }

    /// Turns a node off in an orderly way: the other ends hear of it at once.
    pub fn stop(&mut self, node: Node) {
        self.turn_off(node, None);
    }

    /// A node dies, and is on again after `back_in`, if ever.
    pub fn crash(&mut self, node: Node, back_in: Option<Duration>) {
        let noticed = back_in.map_or(IDLE_TIMEOUT, |time| IDLE_TIMEOUT.min(time + KEEP_ALIVE));
        self.turn_off(node, Some(noticed));
    }

    fn turn_off(&mut self, node: Node, noticed: Option<Duration>) {
        self.nodes[node].up = false;
        for connection in self.by_node[node].clone() {
            let line = &self.lines[&connection];
            let end = line.end_of(node);
            let peer = line.ends[1 - end];
            let delay = noticed.unwrap_or_else(|| self.rtt(node, peer) / 2);
            self.close_end(connection, end);
            let other = Pending::Disconnect {
                connection,
                end: 1 - end,
            };
            self.at(self.now + delay, other);
        }
    }

    /// Cuts the connection between two nodes, or heals it.
    pub fn set_cut(&mut self, a: Node, b: Node, cut: bool) {
        if self.cuts.contains_key(&pair(a, b)) == cut {
            return;
        }
        let between: Vec<Connection> = self.by_node[a]
            .intersection(&self.by_node[b])
            .copied()
            .collect();
        if cut {
            self.cut_count += 1;
            let cut = self.cut_count;
            self.cuts.insert(pair(a, b), cut);
            for connection in between {
                self.at(
                    self.now + IDLE_TIMEOUT,
                    Pending::Timeout { connection, cut },
                );
            }
            return;
        }
        self.cuts.remove(&pair(a, b));
        // What was sent is sent again.
        let arrival = self.now + self.rtt(a, b);
        for connection in between {
            for end in 0..2 {
                let Some(line) = self.lines.get_mut(&connection) else {
                    continue;
                };
                line.arrival[end] = line.arrival[end].max(arrival);
                for bytes in std::mem::take(&mut line.held[end]) {
                    let message = Pending::Message {
                        connection,
                        end,
                        bytes,
                    };
                    self.at(arrival, message);
                }
            }
        }
    }

    /// Dials. Ends in [`Event::Connected`] at both or [`Event::DialFailed`] at the dialler.
    pub fn dial(&mut self, from: Node, to: Node, token: u64) {
        let arrival = self.now + self.rtt(from, to);
        let connect = Pending::Connect {
            from,
            to,
            token,
            begun: self.now,
        };
        self.at(arrival, connect);
    }

    /// Sends a message from one end.
    pub fn send(&mut self, node: Node, connection: Connection, bytes: Vec<u8>) {
        let Some(line) = self.lines.get(&connection) else {
            return;
        };
        let end = 1 - line.end_of(node);
        let peer = line.ends[end];
        let len = bytes.len() as u64 + LENGTH_LEN;
        let packets = len.div_ceil(PACKET_PAYLOAD);
        let wire = len + packets * PACKET_OVERHEAD + packets.div_ceil(2) * ACK_LEN;
        self.nodes[node].traffic.sent += len;
        self.nodes[peer].traffic.received += len;
        for at in [node, peer] {
            self.nodes[at].traffic.wire += wire;
        }
        let way = self.rtt(node, peer) / 2;
        let uplink = &mut self.nodes[node];
        uplink.free_at = uplink.free_at.max(self.now)
            + Duration::from_secs_f64(wire as f64 / uplink.uplink as f64);
        let arrival = uplink.free_at + way;
        if let Some(line) = self.lines.get_mut(&connection) {
            line.arrival[end] = line.arrival[end].max(arrival);
            let arrival = line.arrival[end];
            let message = Pending::Message {
                connection,
                end,
                bytes,
            };
            self.at(arrival, message);
        }
    }

    /// One end closes a connection.
    pub fn hang_up(&mut self, node: Node, connection: Connection) {
        let Some(line) = self.lines.get(&connection) else {
            return;
        };
        let end = line.end_of(node);
        let peer = line.ends[1 - end];
        let cut = self.cuts.contains_key(&pair(node, peer));
        let delay = if cut {
            IDLE_TIMEOUT
        } else {
            self.rtt(node, peer) / 2
        };
        self.close_end(connection, end);
        let other = Pending::Disconnect {
            connection,
            end: 1 - end,
        };
        self.at(self.now + delay, other);
    }

    /// Asks for a wake-up, instead of the one asked for before.
    pub fn wake_at(&mut self, node: Node, at: Option<Duration>) {
        let at = at.map(|at| at.max(self.now));
        if self.nodes[node].wake_at != at {
            self.nodes[node].wake_at = at;
            if let Some(at) = at {
                self.at(at, Pending::Wake { node });
            }
        }
    }

    /// The next event until `end`; time stands at it, or at `end` if there is none.
    pub fn next(&mut self, end: Duration) -> Option<Event> {
        loop {
            match self.queue.peek() {
                Some(Reverse((at, ..))) if *at <= end => {}
                _ => {
                    self.now = self.now.max(end);
                    return None;
                }
            }
            if let Some(Reverse((at, _, pending))) = self.queue.pop() {
                self.now = at;
                if let Some(event) = self.happen(pending) {
                    return Some(event);
                }
            }
        }
    }

    fn at(&mut self, at: Duration, pending: Pending) {
        self.next_number += 1;
        self.queue.push(Reverse((at, self.next_number, pending)));
    }

    fn happen(&mut self, pending: Pending) -> Option<Event> {
        match pending {
            Pending::Connect {
                from,
                to,
                token,
                begun,
            } => self.connect(from, to, token, begun),
            Pending::Accept { connection } => {
                let line = self.lines.get(&connection)?;
                let [peer, node] = line.ends;
                (line.open[1] && self.nodes[node].up).then_some(Event::Connected {
                    node,
                    connection,
                    peer,
                    token: None,
                })
            }
            Pending::DialFailed { node, token } => self.nodes[node]
                .up
                .then_some(Event::DialFailed { node, token }),
            Pending::Message {
                connection,
                end,
                bytes,
            } => {
                let line = self.lines.get_mut(&connection)?;
                if self.cuts.contains_key(&pair(line.ends[0], line.ends[1])) {
                    line.held[end].push(bytes);
                    return None;
                }
                line.open[end].then(|| Event::Message {
                    node: line.ends[end],
                    connection,
                    bytes,
                })
            }
            Pending::Disconnect { connection, end } => self.disconnect(connection, end),
            Pending::Timeout { connection, cut } => {
                let line = self.lines.get(&connection)?;
                let ends = line.ends;
                if self.cuts.get(&pair(ends[0], ends[1])) != Some(&cut) {
                    return None;
                }
                self.at(self.now, Pending::Disconnect { connection, end: 1 });
                self.disconnect(connection, 0)
            }
            Pending::Wake { node } => {
                let state = &mut self.nodes[node];
                if state.wake_at != Some(self.now) || !state.up {
                    return None;
                }
                state.wake_at = None;
                Some(Event::Wake { node, at: self.now })
            }
        }
    }

    fn connect(&mut self, from: Node, to: Node, token: u64, begun: Duration) -> Option<Event> {
        let reached = self.nodes[to].up && !self.cuts.contains_key(&pair(from, to));
        if !self.nodes[from].up {
            return None;
        }
        if !reached {
            self.bill_handshake(from, UNANSWERED_LEN);
            self.at(
                begun + DIAL_TIMEOUT,
                Pending::DialFailed { node: from, token },
            );
            return None;
        }
        for node in [from, to] {
            self.bill_handshake(node, HANDSHAKE_LEN);
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        let line = Line {
            ends: [from, to],
            since: self.now,
            arrival: [self.now; 2],
            held: [Vec::new(), Vec::new()],
            open: [true; 2],
        };
        self.lines.insert(connection, line);
        for node in [from, to] {
            self.by_node[node].insert(connection);
        }
        let accepted = self.now + self.rtt(from, to) / 2;
        self.at(accepted, Pending::Accept { connection });
        Some(Event::Connected {
            node: from,
            connection,
            peer: to,
            token: Some(token),
        })
    }

    fn bill_handshake(&mut self, node: Node, bytes: u64) {
        let traffic = &mut self.nodes[node].traffic;
        traffic.handshakes += bytes;
        traffic.wire += bytes;
    }

    fn disconnect(&mut self, connection: Connection, end: usize) -> Option<Event> {
        let line = self.lines.get(&connection)?;
        let node = line.ends[end];
        let open = line.open[end];
        self.close_end(connection, end);
        (open && self.nodes[node].up).then_some(Event::Disconnected { node, connection })
    }

    /// One end knows that the connection is over.
    fn close_end(&mut self, connection: Connection, end: usize) {
        let Some(line) = self.lines.get_mut(&connection) else {
            return;
        };
        if std::mem::take(&mut line.open[end]) {
            let node = line.ends[end];
            let bytes = keep_alives(self.now - line.since);
            let traffic = &mut self.nodes[node].traffic;
            traffic.keep_alive += bytes;
            traffic.wire += bytes;
            self.by_node[node].remove(&connection);
        }
        if self.lines[&connection].open == [false, false] {
            self.lines.remove(&connection);
        }
    }
}

fn keep_alives(time: Duration) -> u64 {
    KEEP_ALIVE_LEN * time.as_secs() / KEEP_ALIVE.as_secs()
}
