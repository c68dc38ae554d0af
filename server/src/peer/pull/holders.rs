//! The sites that a pull asks: found, reached side by side, and left alone for a while after they failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vitrail_proto::congestion::Class;
use vitrail_proto::fetch::Have;
use vitrail_proto::id::ManifestId;

use crate::peer::links::Link;
use crate::peer::session::{Event, Session};
use crate::peer::{Holder, Peers};

/// Holders of one pull.
pub(super) const HOLDERS_MAX: usize = 16;
/// Those of them that hold a part. The other places are for sites that hold everything, however far: what no other
/// puller has must come from them.
const PARTIAL_MAX: usize = 12;
/// A holder that failed is not asked again for so long.
const SHUN: Duration = Duration::from_secs(20);
/// One that was lost is asked again sooner: it may be back, or reached by another connection.
const SHUN_LOST: Duration = Duration::from_secs(2);

/// Why a holder is out of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection to it ended, or none came about.
    Lost,
    /// It is too slow, or does not answer.
    Slow,
    /// It sent what it must not send: it is out for as long as the pull lasts.
    Fault,
}

/// A holder with whom it is settled whether its streams are open.
pub(super) struct Opened {
    pub(super) holder: Holder,
    pub(super) session: Result<Session, String>,
}

/// The holders of one pull.
pub(super) struct Holders {
    peers: Arc<Peers>,
    manifest: ManifestId,
    events: mpsc::Sender<Event>,
    sessions: HashMap<u64, Session>,
    class: Class,
    opening: JoinSet<Opened>,
    being_opened: HashSet<u64>,
    /// Until when; none for ever.
    shunned: HashMap<u64, Option<Instant>>,
    /// The last failures, for people.
    reasons: Vec<String>,
}

impl Holders {
    pub(super) fn new(
        peers: Arc<Peers>,
        manifest: ManifestId,
        events: mpsc::Sender<Event>,
        class: Class,
    ) -> Self {
        Self {
            peers,
            manifest,
            events,
            sessions: HashMap::new(),
            class,
            opening: JoinSet::new(),
            being_opened: HashSet::new(),
            shunned: HashMap::new(),
            reasons: Vec::new(),
        }
    }

    /// Begins to reach holders that are not in the pull, nearest first.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.shunned
            .retain(|_, until| until.is_none_or(|until| now < until));
        let mut partial = 0;
        for holder in self.peers.holders(self.manifest) {
            partial += usize::from(holder.have != Have::All);
            if holder.have != Have::All && partial > PARTIAL_MAX {
                continue;
            }
            if self.sessions.len() + self.being_opened.len() >= HOLDERS_MAX {
                return;
            }
            let number = holder.number;
            if self.sessions.contains_key(&number)
                || self.shunned.contains_key(&number)
                || !self.being_opened.insert(number)
            {
                continue;
            }
            let (peers, manifest, events) =
                (self.peers.clone(), self.manifest, self.events.clone());
            self.opening.spawn(async move {
                let opened = async {
                    let link = peers.link_to(&holder).await;
                    let link = link.map_err(|error| format!("{error:#}"))?;
                    let session = Session::open(link, manifest, events).await;
                    session.map_err(|error| error.to_string())
                };
                let session = opened.await;
                Opened { holder, session }
            });
        }
    }

    /// The next holder with whom it is settled; never if none is being reached.
    pub(super) async fn opened(&mut self) -> Opened {
        loop {
            match self.opening.join_next().await {
                Some(Ok(opened)) => {
                    self.being_opened.remove(&opened.holder.number);
                    return opened;
                }
                // Only a panic ends one without an answer; its number stays, so that it is not repeated.
                Some(Err(error)) => tracing::error!(%error, "reaching a holder failed"),
                None => std::future::pending().await,
            }
        }
    }

    /// Takes a holder's open streams.
    pub(super) fn add(&mut self, peer: u64, mut session: Session) {
        session.set_class(self.class);
        self.sessions.insert(peer, session);
    }

    /// The connections to them.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let sessions = self.sessions.values();
        sessions.map(|session| session.link.clone()).collect()
    }

    /// Tells all holders whether a client waits.
    pub(super) fn set_class(&mut self, class: Class) {
        self.class = class;
        for session in self.sessions.values_mut() {
            session.set_class(class);
        }
    }

    /// Bytes that have come from each since the last time.
    pub(super) fn take_arrived(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sessions = self.sessions.iter();
        sessions.map(|(peer, session)| (*peer, session.take_arrived()))
    }

    pub(super) fn get(&self, peer: u64) -> Option<&Session> {
        self.sessions.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&peer)
    }

    /// Whether nobody can be asked now, and nobody is being reached. A holder whose streams are all in use by other pulls
    /// is being reached.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.being_opened.is_empty()
    }

    /// Ends a holder's streams. Its name, if it had any.
    pub(super) fn drop_session(&mut self, peer: u64, failure: Failure, reason: &str) {
        if let Some(session) = self.sessions.remove(&peer) {
            let site = session.link.site.clone();
            if failure == Failure::Fault {
                self.peers.metrics.peer_fault(&site);
            }
            tracing::warn!(peer = site, reason, "holder dropped");
            self.shun(peer, &site, failure, reason);
        }
    }

    /// Leaves a holder alone for a while.
    pub(super) fn shun(&mut self, peer: u64, site: &str, failure: Failure, reason: &str) {
        let time = match failure {
            Failure::Lost => Some(SHUN_LOST),
            Failure::Slow => Some(SHUN),
            Failure::Fault => None,
        };
        self.shunned
            .insert(peer, time.map(|time| Instant::now() + time));
        let reason = format!("{site}: {reason}");
        // One that cannot be reached says the same every time.
        self.reasons.retain(|known| *known != reason);
        self.reasons.push(reason);
        let excess = self.reasons.len().saturating_sub(HOLDERS_MAX);
        self.reasons.drain(..excess);
    }

    /// Ends everything. The reasons why holders were dropped or not reached, each after the holder's name.
    pub(super) fn into_reasons(self) -> Vec<String> {
        self.reasons
    }

    /// Why holders are not in the pull.
    pub(super) fn reasons(&self) -> String {
        if self.reasons.is_empty() {
            "no reachable site holds them".to_owned()
        } else {
            self.reasons.join("; ")
        }
    }
}
