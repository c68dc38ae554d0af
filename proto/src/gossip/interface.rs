//! What the owner gives and gets.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::entry::{Holding, Info, Link, SiteNumber};
use super::overlay::Target;
use super::snapshot::Snapshot;
use crate::id::ManifestId;
use crate::record::{Merge, Record};

/// The time, by two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since any fixed moment; never goes back. All delays are by it.
    pub monotonic: Duration,
    /// Milliseconds since 1970, as well as the site knows. Versions are made of it.
    pub unix_ms: u64,
}

/// Number that the owner gives a connection; never used again.
pub type ConnectionId = u64;

/// Who this site is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name, as in its certificate.
    pub name: String,
    /// Where it is.
    pub zone: String,
    /// Name and version of the program.
    pub software: String,
    /// Where others reach its peer port, as `host:port`.
    pub addresses: Vec<String>,
    /// Addresses of other sites, dialled while there is no connection at all.
    pub seeds: Vec<String>,
}

/// What this site has from before it stopped.
#[derive(Debug, Default)]
pub struct Start {
    /// What [`super::Gossip::export`] returned.
    pub snapshot: Option<Snapshot>,
    /// Whether that was after the last thing told: false after a crash. Then everything that this site tells of itself
    /// is told anew.
    pub clean: bool,
    /// What it holds.
    pub holdings: BTreeMap<ManifestId, Holding>,
}

/// The owner's image records.
pub trait Catalogue {
    /// Ids of all records, deleted ones that are remembered included.
    fn ids(&self) -> Vec<Uuid>;

    /// A record.
    fn record(&self, id: Uuid) -> Option<Record>;

    /// Takes in what another site knows, durably.
    fn merge(&mut self, record: Record) -> Result<Merge, CatalogueFailed>;

    /// Puts a record in the place of what is there.
    fn replace(&mut self, record: Record) -> Result<(), CatalogueFailed>;

    /// Drops a record as if it had never been there. This is no deletion.
    fn forget(&mut self, id: Uuid) -> Result<(), CatalogueFailed>;
}

/// The catalogue could not write. Its owner knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the catalogue could not be written")]
pub struct CatalogueFailed;

/// What the owner has to do or may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The connection has messages: call [`super::Gossip::poll_message`] until there is none.
    Ready(ConnectionId),
    /// Make a connection. Ends in [`super::Gossip::handle_connected`] or [`super::Gossip::handle_dial_failed`].
    Dial {
        /// Whom.
        target: Target,
        /// Where, to be tried in this order.
        addresses: Vec<String>,
    },
    /// Close a connection. Gossip has forgotten it already.
    HangUp {
        /// Which.
        connection: ConnectionId,
        /// Why, for people and for the other end.
        reason: String,
    },
    /// Something happened.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A site can be reached, perhaps over others.
    SiteUp(SiteNumber),
    /// It cannot any more.
    SiteDown(SiteNumber),
    /// A site told who and where it is.
    SiteChanged(SiteNumber),
    /// What a site holds of a manifest changed.
    HoldingChanged(SiteNumber, ManifestId),
    /// A record was merged, with this outcome. [`Merge::TookTheirs`] and [`Merge::KeptOurs`] mean that two sites
    /// made images with one id, and one of them has lost.
    RecordMerged(Uuid, Merge),
    /// A stamp or version is so far ahead of our clock that it was not taken in. Comes for every message with such.
    ClockAhead {
        /// Neighbour that sent it.
        neighbour: String,
        /// Site that made it.
        site: SiteNumber,
        /// By how much, in milliseconds.
        ahead_ms: u64,
    },
    /// Others have versions of this site's log that it did not write: it tells everything anew.
    Disputed {
        /// Neighbour that has them.
        neighbour: String,
    },
    /// The mesh knows a daemon of this site's name that started later, or a member has invented one: the owner finds out
    /// whether it shows our certificate, and calls [`super::Gossip::handle_rival`] if it does.
    Rival {
        /// Where it is said to be.
        addresses: Vec<String>,
    },
    /// A daemon of this site's name started later than this one. This one is out of the mesh.
    Outranked {
        /// Where the other is, as far as is known.
        addresses: Vec<String>,
    },
    /// This site was away for long and has now what the mesh has.
    Returned {
        /// Records that were dropped, because nobody sent them.
        dropped: Vec<Uuid>,
    },
    /// There is no room to tell more of this site.
    TooMuchToTell,
}

/// A site as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its number.
    pub number: SiteNumber,
    /// What it tells of itself.
    pub info: Info,
    /// Whether it is this one or can be reached.
    pub up: bool,
    /// Round trip in microseconds, if there is or was a connection.
    pub rtt_us: Option<u64>,
    /// Its connections.
    pub links: Vec<Link>,
}
