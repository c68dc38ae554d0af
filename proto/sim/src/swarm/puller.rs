//! A pull and the shell around its planner, by the rules of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vitrail_proto::fetch::{Have, Output, PeerInfo, Pull, Wanted};
use vitrail_proto::runs::Runs;

use super::holder::Session;
use super::{Event, Image, LINKS_MAX, Swarm, Way};

/// Holders of one pull.
const HOLDERS_MAX: usize = 16;
/// Those of them that hold a part.
const PARTIAL_MAX: usize = 12;
/// How often it looks for more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A holder that failed is left alone for so long, one that was not reached for less.
const SHUN: Duration = Duration::from_secs(20);
const SHUN_LOST: Duration = Duration::from_secs(2);
/// How long it looks for holders before it gives up.
const STARVE_MAX: Duration = Duration::from_secs(15);
/// A pull of so much tells that it has begun.
const BEGIN_LEN: u64 = 16 * 1024 * 1024;
/// Others hear of each eighth of what was missing, but not more often than this.
const TELL_STEPS: u64 = 8;
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes on the wire from which on a rate is believed.
const SEEN_MIN: u64 = 4 * 1024 * 1024;

/// A pull at a site.
pub(super) struct Puller {
    pub(super) site: usize,
    image: usize,
    planner: Pull,
    ended: bool,
    /// By holder.
    sessions: BTreeMap<usize, usize>,
    opening: BTreeMap<usize, Have>,
    shunned: BTreeMap<usize, Duration>,
    /// What each holder has brought, on the wire and raw.
    brought: BTreeMap<usize, (u64, u64)>,
    /// Who is asked for a chunk now.
    asked: BTreeMap<u32, (usize, u32)>,
    missing_bytes: u64,
    begins: bool,
    told_bytes: u64,
    told_at: Duration,
    starved_since: Option<Duration>,
    timer: Option<Duration>,
    /// Who waits for its end.
    waiting: BTreeSet<usize>,
    /// Where a client reads, if one does: all before it is there.
    pub(super) reads: Option<u32>,
}

impl Swarm {
    /// Somebody asks for an image: begins a pull, or joins the one that runs.
    pub(super) fn ask(&mut self, number: usize) {
        let (pulled, way) = &self.asked[number];
        let (site, image, reads) = (pulled.site, pulled.image, *way == Way::Read);
        if let Some(&running) = self.running.get(&(site, image)) {
            let pull = &mut self.pulls[running];
            pull.waiting.insert(number);
            if reads && pull.reads.is_none() {
                pull.reads = Some(0);
                self.read_on(running);
                self.carry_out(running);
            }
            return;
        }
        let has = &self.stores[site].has;
        let Image { chunks, first } = &self.images[image];
        let wanted: Vec<Wanted> = (0u32..)
            .zip(chunks.iter().zip(first))
            .filter(|(index, (chunk, first))| *index == **first && !has.contains(chunk))
            .map(|(index, (chunk, _))| Wanted {
                index,
                len: self.chunks[*chunk as usize].len,
            })
            .collect();
        if wanted.is_empty() {
            return self.end_ask(number, true);
        }
        let missing_bytes = wanted.iter().map(|w| u64::from(w.len)).sum();
        self.report.missing_bytes += missing_bytes;
        let mut planner = Pull::new(wanted, site as u64, self.random.number());
        planner.set_whole(true, self.now);
        self.pulls.push(Puller {
            site,
            image,
            planner,
            ended: false,
            sessions: BTreeMap::new(),
            opening: BTreeMap::new(),
            shunned: BTreeMap::new(),
            brought: BTreeMap::new(),
            asked: BTreeMap::new(),
            missing_bytes,
            begins: missing_bytes >= BEGIN_LEN,
            told_bytes: 0,
            told_at: self.now,
            starved_since: None,
            timer: None,
            waiting: BTreeSet::from([number]),
            reads: reads.then_some(0),
        });
        let pull = self.pulls.len() - 1;
        self.running.insert((site, image), pull);
        self.read_on(pull);
        self.carry_out(pull);
        self.look(pull);
    }

    /// A client goes on until it waits for a chunk.
    fn read_on(&mut self, number: usize) {
        let pull = &mut self.pulls[number];
        let Some(at) = &mut pull.reads else { return };
        let Image { chunks, first } = &self.images[pull.image];
        let has = &self.stores[pull.site].has;
        let before = *at;
        while chunks.get(*at as usize).is_some_and(|c| has.contains(c)) {
            *at += 1;
        }
        let waits = first.get(*at as usize).copied();
        if *at != before || before == 0 {
            pull.planner.set_positions(waits, self.now);
        }
    }

    /// Looks for holders, tells how far it is, and gives up if there is nobody.
    pub(super) fn look(&mut self, number: usize) {
        if self.pulls[number].ended {
            return;
        }
        self.find_holders(number);
        let pull = &self.pulls[number];
        let alone = pull.sessions.is_empty() && pull.opening.is_empty();
        let starved = |since: Duration| self.now.saturating_sub(since) > STARVE_MAX;
        if alone && pull.starved_since.is_some_and(starved) {
            return self.end_pull(number, false);
        }
        self.tell_part(number);
        self.count_arrived(number);
        self.after(LOOK_INTERVAL, Event::Look(number));
    }

    fn find_holders(&mut self, number: usize) {
        let now = self.now;
        let pull = &mut self.pulls[number];
        pull.shunned.retain(|_, until| now < *until);
        let is_full = |pull: &Puller| pull.sessions.len() + pull.opening.len() >= HOLDERS_MAX;
        if is_full(pull) {
            return;
        }
        let (site, image) = (pull.site, pull.image);
        let mut partial = 0;
        for (holder, have) in self.holders(site, image) {
            partial += usize::from(have != Have::All);
            if have != Have::All && partial > PARTIAL_MAX {
                continue;
            }
            let pull = &mut self.pulls[number];
            if is_full(pull) {
                return;
            }
            if pull.sessions.contains_key(&holder)
                || pull.shunned.contains_key(&holder)
                || pull.opening.contains_key(&holder)
            {
                continue;
            }
            pull.opening.insert(holder, have);
            let linked = self.links[site].contains(&holder);
            let full = |site: usize| self.links[site].len() >= LINKS_MAX;
            let reached = linked || !(full(site) || full(holder));
            if reached {
                self.connect(site, holder);
            }
            let handshake = match linked {
                true => Duration::ZERO,
                false => self.network.rtt(site, holder),
            };
            let opened = Event::Opened {
                pull: number,
                holder,
                reached,
            };
            self.after(handshake, opened);
        }
    }

    /// It is settled whether the streams to a holder are open.
    pub(super) fn opened(&mut self, number: usize, holder: usize, reached: bool) {
        let pull = &mut self.pulls[number];
        let Some(have) = pull.opening.remove(&holder).filter(|_| !pull.ended) else {
            return;
        };
        if !reached {
            pull.shunned.insert(holder, self.now + SHUN_LOST);
            return;
        }
        let (site, image) = (pull.site, pull.image);
        let flow = self.flow(holder, site);
        let session = self.sessions.len();
        self.sessions
            .push(Session::new(number, holder, image, flow));
        let info = PeerInfo {
            distance: self.network.distance(site, holder),
            rtt: self.network.rtt(site, holder),
            rate: self.rates[site].get(&holder).copied(),
        };
        let pull = &mut self.pulls[number];
        pull.sessions.insert(holder, session);
        pull.planner.add_peer(holder as u64, info, have, self.now);
        let asks = self.network.path(site, holder).delay;
        self.after(asks, Event::Tell(session));
        self.carry_out(number);
    }

    pub(super) fn take_have(&mut self, session: usize, runs: &Runs) {
        let Session {
            pull, holder, open, ..
        } = self.sessions[session];
        if open {
            let have = Have::Part(runs.clone());
            let planner = &mut self.pulls[pull].planner;
            planner.update_have(holder as u64, have, self.now);
            self.carry_out(pull);
        }
    }

    pub(super) fn take_frame(&mut self, session: usize, request: u32, chunks: &[u32]) {
        let Session {
            pull: number,
            holder,
            open,
            ..
        } = self.sessions[session];
        if !open {
            return;
        }
        let pull = &mut self.pulls[number];
        let (mut wire, mut raw) = (0, 0);
        for index in chunks {
            let chunk = self.images[pull.image].chunks[*index as usize];
            self.stores[pull.site].has.insert(chunk);
            let chunk = &self.chunks[chunk as usize];
            wire += u64::from(chunk.wire);
            raw += u64::from(chunk.len);
            if pull.asked.get(index) == Some(&(holder, request)) {
                pull.asked.remove(index);
            }
        }
        self.report.arrived_bytes += raw;
        let brought = pull.brought.entry(holder).or_default();
        *brought = (brought.0 + wire, brought.1 + raw);
        let indexes = chunks.iter().copied();
        pull.planner
            .handle_chunks(holder as u64, request, indexes, self.now);
        pull.starved_since = None;
        self.read_on(number);
        self.carry_out(number);
    }

    pub(super) fn take_done(&mut self, session: usize, request: u32, missing: Vec<u32>) {
        let Session {
            pull: number,
            holder,
            open,
            ..
        } = self.sessions[session];
        if !open {
            return;
        }
        let pull = &mut self.pulls[number];
        // What it says not to have is asked of others.
        for index in &missing {
            if pull.asked.get(index) == Some(&(holder, request)) {
                pull.asked.remove(index);
            }
        }
        pull.planner
            .handle_done(holder as u64, request, &Runs::of(missing), self.now);
        self.carry_out(number);
    }

    /// Tells the planner from whom a frame is under way.
    fn count_arrived(&mut self, number: usize) {
        let pull = &self.pulls[number];
        let alive: Vec<usize> = pull
            .sessions
            .iter()
            .filter(|(_, session)| self.is_sending(**session))
            .map(|(holder, _)| *holder)
            .collect();
        for holder in alive {
            let planner = &mut self.pulls[number].planner;
            planner.handle_bytes(holder as u64, 1024, self.now);
        }
    }

    pub(super) fn time_out(&mut self, number: usize) {
        self.count_arrived(number);
        let pull = &mut self.pulls[number];
        pull.timer = None;
        let due = pull.planner.next_timeout();
        if !pull.ended && due.is_some_and(|due| due <= self.now) {
            pull.planner.handle_timeout(self.now);
        }
        self.carry_out(number);
    }

    /// Does what the planner wants.
    fn carry_out(&mut self, number: usize) {
        while let Some(output) = self.pulls[number].planner.poll() {
            if self.pulls[number].ended {
                return;
            }
            match output {
                Output::Request {
                    peer,
                    request,
                    chunks,
                    first,
                } => self.request(
                    number,
                    peer as usize,
                    request,
                    chunks.iter().collect(),
                    first,
                ),
                Output::Cancel { peer, request } => {
                    let holder = peer as usize;
                    self.excuse(number, |asked| *asked == (holder, request));
                    let pull = &self.pulls[number];
                    if let Some(&session) = pull.sessions.get(&holder) {
                        let delay = self.network.path(pull.site, holder).delay;
                        self.after(delay, Event::Cancel { session, request });
                    }
                }
                Output::Drop { peer, .. } => self.hang_up(number, peer as usize),
                Output::Starved => {
                    self.pulls[number].starved_since.get_or_insert(self.now);
                }
                Output::Complete => return self.end_pull(number, true),
            }
        }
        let pull = &mut self.pulls[number];
        let due = pull.planner.next_timeout().filter(|_| !pull.ended);
        // One that comes too early looks again.
        if let Some(due) = due
            && pull.timer.is_none_or(|timer| due < timer)
        {
            pull.timer = Some(due);
            self.after(due.saturating_sub(self.now), Event::Timer(number));
        }
    }

    fn request(
        &mut self,
        number: usize,
        holder: usize,
        request: u32,
        chunks: Vec<u32>,
        first: bool,
    ) {
        let pull = &mut self.pulls[number];
        let session = pull.sessions[&holder];
        assert!(!chunks.is_empty(), "an empty request");
        for index in &chunks {
            let before = pull.asked.insert(*index, (holder, request));
            assert_eq!(before, None, "another is asked for chunk {index}");
        }
        let delay = self.network.path(pull.site, holder).delay;
        let event = Event::Request {
            session,
            request,
            chunks,
            first,
        };
        self.after(delay, event);
    }

    /// Nobody is waited for any more with what was asked so; it may come all the same.
    fn excuse(&mut self, number: usize, which: impl Fn(&(usize, u32)) -> bool) {
        let pull = &mut self.pulls[number];
        let image = &self.images[pull.image].chunks;
        let chunks = &self.chunks;
        let mut bytes = 0;
        pull.asked.retain(|index, asked| {
            let excused = which(asked);
            if excused {
                let chunk = image[*index as usize];
                bytes += u64::from(chunks[chunk as usize].len);
            }
            !excused
        });
        self.report.excused_bytes += bytes;
    }

    /// Ends the streams to a holder that is too slow.
    fn hang_up(&mut self, number: usize, holder: usize) {
        let pull = &mut self.pulls[number];
        if let Some(session) = pull.sessions.remove(&holder) {
            self.sessions[session].close();
        }
        pull.shunned.insert(holder, self.now + SHUN);
        self.excuse(number, |asked| asked.0 == holder);
    }

    fn tell_part(&mut self, number: usize) {
        let pull = &mut self.pulls[number];
        let arrived = pull.missing_bytes - pull.planner.left_bytes();
        let step = pull.missing_bytes.div_ceil(TELL_STEPS);
        let begins = std::mem::take(&mut pull.begins);
        if begins || arrived >= pull.told_bytes + step && self.now >= pull.told_at + TELL_INTERVAL {
            (pull.told_bytes, pull.told_at) = (arrived, self.now);
            let (site, image) = (pull.site, pull.image);
            self.announce_part(site, image);
        }
    }

    fn end_pull(&mut self, number: usize, complete: bool) {
        let pull = &mut self.pulls[number];
        pull.ended = true;
        let (site, image) = (pull.site, pull.image);
        for (holder, (wire, raw)) in std::mem::take(&mut pull.brought) {
            let rate = pull.planner.rate(holder as u64);
            if let Some(rate) = rate.filter(|_| wire >= SEEN_MIN) {
                let rate = rate * wire as f64 / raw.max(1) as f64;
                self.rates[site].insert(holder, rate);
            }
        }
        for session in std::mem::take(&mut pull.sessions).into_values() {
            self.sessions[session].close();
        }
        pull.asked = BTreeMap::new();
        for asked in std::mem::take(&mut pull.waiting) {
            self.end_ask(asked, complete);
        }
        self.running.remove(&(site, image));
        if complete {
            self.announce(site, image, Have::All);
        }
    }

    fn end_ask(&mut self, number: usize, complete: bool) {
        self.left -= 1;
        let (pulled, _) = &mut self.asked[number];
        pulled.time = complete.then(|| self.now - pulled.at);
    }
}
