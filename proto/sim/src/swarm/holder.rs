//! A holder's side of the streams to one puller.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::{Event, Swarm};

/// Uncompressed bytes of a frame. Frames have up to 512 KiB in the store, and a block lies across two of them.
const FRAME_LEN: u64 = 256 * 1024;
/// The daemon's: how often a holder of a part looks whether it has more, and the part of an image that it tells of.
const HAVE_INTERVAL: Duration = Duration::from_millis(250);
const HAVE_STEPS: u64 = 128;

/// The open streams from a holder to a puller.
pub(super) struct Session {
    pub(super) pull: usize,
    pub(super) holder: usize,
    pub(super) image: usize,
    /// The connection that it sends on, and whether it waits for its turn there.
    pub(super) flow: usize,
    pub(super) in_turn: bool,
    pub(super) open: bool,
    /// What a client waits for.
    first: VecDeque<Work>,
    rest: VecDeque<Work>,
    cancelled: BTreeSet<u32>,
    /// What the puller was told, and what was there when that was last looked at, in chunks.
    told: Option<u64>,
    seen: u64,
}

struct Work {
    request: u32,
    chunks: VecDeque<u32>,
    begun: bool,
    missing: Vec<u32>,
}

impl Session {
    pub(super) fn new(pull: usize, holder: usize, image: usize, flow: usize) -> Self {
        Self {
            pull,
            holder,
            image,
            flow,
            in_turn: false,
            open: true,
            first: VecDeque::new(),
            rest: VecDeque::new(),
            cancelled: BTreeSet::new(),
            told: None,
            seen: 0,
        }
    }

    /// A request is not to be begun.
    pub(super) fn cancel(&mut self, request: u32) {
        self.cancelled.insert(request);
    }

    /// Ends it.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.first = VecDeque::new();
        self.rest = VecDeque::new();
        self.cancelled = BTreeSet::new();
    }
}

impl Swarm {
    pub(super) fn take_request(
        &mut self,
        number: usize,
        request: u32,
        chunks: Vec<u32>,
        first: bool,
    ) {
        let session = &mut self.sessions[number];
        if !session.open {
            return;
        }
        let queue = if first {
            &mut session.first
        } else {
            &mut session.rest
        };
        queue.push_back(Work {
            request,
            chunks: chunks.into(),
            begun: false,
            missing: Vec::new(),
        });
        self.take_turn(number);
    }

    /// The next message of a session and its bytes: a frame, or the end of a request, which costs nothing.
    pub(super) fn next_message(&mut self, number: usize) -> Option<(u64, Event)> {
        let session = &mut self.sessions[number];
        let queue = if session.first.is_empty() {
            &mut session.rest
        } else {
            &mut session.first
        };
        let work = queue.front_mut()?;
        let request = work.request;
        if !work.begun && session.cancelled.remove(&request) {
            work.chunks.clear();
        }
        work.begun = true;
        let store = &self.stores[session.holder].has;
        let numbers = &self.images[session.image].chunks;
        let (mut frame, mut len, mut bytes) = (Vec::new(), 0, 0);
        while let Some(&index) = work.chunks.front() {
            let number = numbers[index as usize];
            let chunk = &self.chunks[number as usize];
            if len > 0 && len + u64::from(chunk.len) > FRAME_LEN {
                break;
            }
            work.chunks.pop_front();
            if store.contains(&number) {
                frame.push(index);
                len += u64::from(chunk.len);
                bytes += u64::from(chunk.wire);
            } else {
                work.missing.push(index);
            }
        }
        let session = number;
        if !frame.is_empty() {
            let chunks = frame;
            let event = Event::Frame {
                session,
                request,
                chunks,
            };
            return Some((bytes, event));
        }
        let work = queue.pop_front()?;
        let event = Event::Done {
            session,
            request,
            missing: work.missing,
        };
        Some((0, event))
    }

    /// A holder answers what it has, or looks whether to tell that it has more.
    pub(super) fn tell(&mut self, number: usize) {
        let session = &self.sessions[number];
        if !session.open {
            return;
        }
        let (holder, image) = (session.holder, session.image);
        let runs = self.held(holder, image);
        let all = self.images[image].chunks.len() as u64;
        let now = runs.count();
        let session = &mut self.sessions[number];
        let due = session.told.is_none_or(|told| {
            let rests = now == session.seen;
            now != told && (rests || now - told > all / HAVE_STEPS || now == all)
        });
        session.seen = now;
        if due {
            session.told = Some(now);
            let to = self.pulls[session.pull].site;
            let delay = self.network.path(holder, to).delay;
            let runs = Rc::clone(&runs);
            self.after(
                delay,
                Event::Have {
                    session: number,
                    runs,
                },
            );
        }
        if now < all {
            self.after(HAVE_INTERVAL, Event::Tell(number));
        }
    }
}
