//! A holder's side of the streams to one puller.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::{Event, Swarm};

/// Uncompressed bytes of a frame. Frames have up to 512 KiB in the store, and a block lies across two of them.
const FRAME_LEN: u64 = 256 * 1024;
/// Most streams of a session beside the one that goes first, and requests in a row that go to one of them.
const STREAMS: usize = 8;
const RUN: usize = 4;
/// The stream for what clients wait for.
pub(super) const FIRST: usize = 0;
/// The daemon's: how often a holder of a part looks whether it has more, and the part of an image that it tells of.
const HAVE_INTERVAL: Duration = Duration::from_millis(250);
const HAVE_STEPS: u64 = 128;

/// How holders answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Streams over which the requests of a session are spread, 1 to 4; they share the connection evenly.
    pub streams: usize,
    /// Bytes that a holder writes ahead of what has been sent. What is written cannot be taken back.
    pub ahead: u64,
}

impl Serving {
    /// As the daemon does: it writes as much as the window of a connection lets it.
    pub const DAEMON: Self = Self {
        streams: STREAMS,
        ahead: 4 * 1024 * 1024,
    };
    /// One request after the other, each begun when the one before is nearly sent.
    pub const IN_TURN: Self = Self {
        streams: 1,
        ahead: 1,
    };
}

/// The open streams from a holder to a puller.
pub(super) struct Session {
    pub(super) pull: usize,
    pub(super) holder: usize,
    pub(super) image: usize,
    /// The connection that it sends on.
    pub(super) flow: usize,
    pub(super) open: bool,
    streams: [Stream; STREAMS + 1],
    /// Requests that came on other streams than the first.
    requests: usize,
    /// Bytes that were written and have not been sent.
    written: u64,
    cancelled: BTreeSet<u32>,
    /// What the puller was told, and what was there when that was last looked at, in chunks.
    told: Option<u64>,
    seen: u64,
}

#[derive(Default)]
struct Stream {
    /// Requests that were not begun.
    waiting: VecDeque<Work>,
    /// Messages that were written: nothing takes them back.
    written: VecDeque<(u64, Event)>,
    /// Whether one of them is being sent.
    sends: bool,
}

struct Work {
    request: u32,
    chunks: Vec<u32>,
}

impl Session {
    pub(super) fn new(pull: usize, holder: usize, image: usize, flow: usize) -> Self {
        Self {
            pull,
            holder,
            image,
            flow,
            open: true,
            streams: Default::default(),
            requests: 0,
            written: 0,
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
        self.streams = Default::default();
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
        let stream = if first {
            FIRST
        } else {
            session.requests += 1;
            1 + session.requests / RUN % self.serving.streams.clamp(1, STREAMS)
        };
        let work = Work { request, chunks };
        session.streams[stream].waiting.push_back(work);
        self.write(number, stream);
        let session = &mut self.sessions[number];
        if !std::mem::replace(&mut session.streams[stream].sends, true) {
            self.begin_sending(number, stream);
        }
    }

    /// Begins requests of a stream, as long as there is room to write the answers.
    fn write(&mut self, number: usize, stream: usize) {
        loop {
            let session = &mut self.sessions[number];
            if session.written >= self.serving.ahead.max(1) {
                return;
            }
            let Some(Work { request, chunks }) = session.streams[stream].waiting.pop_front() else {
                return;
            };
            let chunks = match session.cancelled.remove(&request) {
                true => Vec::new(),
                false => chunks,
            };
            let (frames, missing) = self.frames(number, request, chunks);
            let done = Event::Done {
                session: number,
                request,
                missing,
            };
            let session = &mut self.sessions[number];
            session.written += frames.iter().map(|(bytes, _)| bytes).sum::<u64>();
            let written = &mut session.streams[stream].written;
            written.extend(frames);
            written.push_back((0, done));
        }
    }

    /// The frames that answer a request, and the chunks that are not there.
    fn frames(
        &self,
        number: usize,
        request: u32,
        indexes: Vec<u32>,
    ) -> (Vec<(u64, Event)>, Vec<u32>) {
        let session = &self.sessions[number];
        let store = &self.stores[session.holder].has;
        let numbers = &self.images[session.image].chunks;
        let has = |index: &u32| store.contains(&numbers[*index as usize]);
        let (there, missing): (Vec<u32>, Vec<u32>) = indexes.into_iter().partition(has);
        let chunk = |index: u32| &self.chunks[numbers[index as usize] as usize];
        let mut frames: Vec<(u64, Vec<u32>)> = Vec::new();
        let mut len = 0;
        for index in there {
            let chunk = chunk(index);
            match frames.last_mut() {
                Some((bytes, frame)) if len + u64::from(chunk.len) <= FRAME_LEN => {
                    len += u64::from(chunk.len);
                    *bytes += u64::from(chunk.wire);
                    frame.push(index);
                }
                _ => {
                    len = u64::from(chunk.len);
                    frames.push((chunk.wire.into(), vec![index]));
                }
            }
        }
        let session = number;
        let frame = |(bytes, chunks)| {
            let event = Event::Frame {
                session,
                request,
                chunks,
            };
            (bytes, event)
        };
        (frames.into_iter().map(frame).collect(), missing)
    }

    /// The next message of a stream and its bytes; the end of a request costs nothing.
    pub(super) fn next_message(&mut self, number: usize, stream: usize) -> Option<(u64, Event)> {
        let session = &mut self.sessions[number];
        let next = session.streams[stream].written.pop_front();
        let Some((bytes, _)) = &next else {
            session.streams[stream].sends = false;
            return None;
        };
        session.written -= bytes;
        for stream in 0..=STREAMS {
            self.write(number, stream);
            let session = &mut self.sessions[number];
            let waits = &mut session.streams[stream];
            if !waits.written.is_empty() && !std::mem::replace(&mut waits.sends, true) {
                self.begin_sending(number, stream);
            }
        }
        next
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
