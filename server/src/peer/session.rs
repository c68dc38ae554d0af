//! The puller's side of the streams to one holder.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quinn::RecvStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use vitrail_chunkstore::frame::decode;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::congestion::Class;
use vitrail_proto::id::ManifestId;
use vitrail_proto::runs::Runs;
use vitrail_proto::wire::{FetchReply, FetchRequest, MESSAGE_LEN_MAX, PathFigures, StreamKind};

use super::ask::ask_path;
use super::links::{Link, code};
use super::message::{self, MessageError};

/// Streams to one holder: as many windows of 4 MiB as a connection may need. Few requests use few of them.
const STREAMS: usize = 8;
/// Requests in a row that go to one stream: streams share a link evenly, and what was asked for first should
/// come first.
const RUN: usize = 4;
/// Requests that wait to be written to a stream.
const REQUESTS_MAX: usize = 256;

/// What a holder's streams bring.
pub(super) enum Event {
    /// A frame whose chunks were verified.
    Frame {
        peer: u64,
        request: u32,
        frame: Bytes,
        chunks: Vec<VerifiedChunk>,
    },
    /// A request has ended.
    Done {
        peer: u64,
        request: u32,
        missing: Runs,
    },
    /// What the holder has.
    Have { peer: u64, runs: Runs },
    /// What the holder knows of the path from it.
    Path { peer: u64, figures: PathFigures },
    /// The holder broke the rules.
    Fault { peer: u64, reason: String },
    /// The link is gone.
    Lost { peer: u64, reason: String },
}

/// The open streams to a holder. Dropping it ends them.
pub(super) struct Session {
    pub(super) link: Arc<Link>,
    /// The first is for chunks at which clients wait, the last for what the holder has.
    streams: Vec<mpsc::Sender<FetchRequest>>,
    /// Where each request went.
    requests: HashMap<u32, usize>,
    next: usize,
    /// Bytes that have come since [`Session::take_arrived`].
    arrived: Arc<AtomicU64>,
    class: watch::Sender<Class>,
    _tasks: JoinSet<()>,
}

impl Session {
    /// Opens the streams and asks what the holder has.
    pub(super) async fn open(
        link: Arc<Link>,
        manifest: ManifestId,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, MessageError> {
        let class = watch::Sender::new(Class::Interactive);
        let arrived = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let mut streams = Vec::new();
        for _ in 0..STREAMS + 2 {
            let (mut send, recv) = link
                .connection
                .open_bi()
                .await
                .map_err(|error| MessageError::Lost(error.to_string()))?;
            let (requests, mut queue) = mpsc::channel::<FetchRequest>(REQUESTS_MAX);
            tasks.spawn(async move {
                let kind = [StreamKind::Fetch.number()];
                if send.write_all(&kind).await.is_err() {
                    return;
                }
                while let Some(request) = queue.recv().await {
                    // A lost stream is reported by its reader.
                    if message::write(&mut send, &request.encode()).await.is_err() {
                        return;
                    }
                }
            });
            tasks.spawn(read_replies(
                link.clone(),
                recv,
                events.clone(),
                class.subscribe(),
                arrived.clone(),
            ));
            let _fits = requests.try_send(FetchRequest::Open(manifest));
            streams.push(requests);
        }
        tasks.spawn(ask_about_path(link.clone(), events));
        for stream in [streams.first(), streams.last()].into_iter().flatten() {
            let _fits = stream.try_send(FetchRequest::First);
        }
        // A stream of its own: what a holder gains is news only if it does not queue behind chunks.
        if let Some(last) = streams.last() {
            let _fits = last.try_send(FetchRequest::WantHave);
        }
        Ok(Self {
            link,
            streams,
            requests: HashMap::new(),
            next: 0,
            arrived,
            class,
            _tasks: tasks,
        })
    }

    /// Asks for chunks, before all others if they are to come `first`.
    pub(super) fn get(
        &mut self,
        request: u32,
        chunks: Runs,
        first: bool,
    ) -> Result<(), MessageError> {
        let stream = if first {
            0
        } else {
            self.next += 1;
            1 + self.next / RUN % STREAMS
        };
        self.requests.insert(request, stream);
        self.send(stream, FetchRequest::Get { request, chunks })
    }

    /// Takes a request back, if it has not begun.
    pub(super) fn cancel(&mut self, request: u32) -> Result<(), MessageError> {
        match self.requests.get(&request) {
            Some(&stream) => self.send(stream, FetchRequest::Cancel { request }),
            None => Ok(()),
        }
    }

    /// Tells the holder whom it sends for.
    pub(super) fn set_class(&mut self, class: Class) {
        if self.class.send_replace(class) != class {
            for stream in &self.streams {
                // One that takes nothing any more is found out by its reader.
                let _told = stream.try_send(FetchRequest::Class(class));
            }
        }
    }

    /// Bytes that have come since the last time, of messages that may not be whole yet.
    pub(super) fn take_arrived(&self) -> u64 {
        self.arrived.swap(0, Ordering::Relaxed)
    }

    /// A request has been answered.
    pub(super) fn done(&mut self, request: u32) {
        self.requests.remove(&request);
    }

    fn send(&mut self, stream: usize, request: FetchRequest) -> Result<(), MessageError> {
        self.streams[stream]
            .try_send(request)
            .map_err(|_| MessageError::Unexpected("it does not take requests any more"))
    }
}

/// The answer helps to plan; a pull does without it, as of a holder that does not know the question.
async fn ask_about_path(link: Arc<Link>, events: mpsc::Sender<Event>) {
    if let Ok(figures) = ask_path(&link).await {
        let peer = link.number;
        // A pull that has ended takes no events.
        let _ended = events.send(Event::Path { peer, figures }).await;
    }
}

async fn read_replies(
    link: Arc<Link>,
    mut recv: RecvStream,
    events: mpsc::Sender<Event>,
    class: watch::Receiver<Class>,
    arrived: Arc<AtomicU64>,
) {
    let peer = link.number;
    loop {
        let message = async {
            let Some(len) = message::read_len(&mut recv, MESSAGE_LEN_MAX).await? else {
                return Ok(None);
            };
            let class = *class.borrow();
            link.receive(class, len).await;
            let came = |bytes| {
                arrived.fetch_add(bytes as u64, Ordering::Relaxed);
            };
            message::read_body(&mut recv, len, came).await.map(Some)
        };
        let event = match message.await {
            Ok(Some(bytes)) => {
                link.rx_bytes.inc_by(bytes.len() as u64);
                link.touch();
                take(peer, &bytes).await
            }
            Ok(None) => Event::Lost {
                peer,
                reason: "it ended the stream".into(),
            },
            Err(error @ MessageError::Lost(_)) => Event::Lost {
                peer,
                reason: error.to_string(),
            },
            Err(error) => Event::Fault {
                peer,
                reason: error.to_string(),
            },
        };
        let last = matches!(event, Event::Lost { .. } | Event::Fault { .. });
        // A pull that has ended takes no events.
        if events.send(event).await.is_err() || last {
            let _closed = recv.stop(code::NOT_NEEDED);
            return;
        }
    }
}

/// Decodes a reply, and a frame down to verified chunks.
async fn take(peer: u64, bytes: &Bytes) -> Event {
    match FetchReply::decode(bytes) {
        Ok(FetchReply::Frame { request, frame }) => {
            let work = frame.clone();
            match super::serve::blocking(move || decode(&work)).await {
                Some(Ok(chunks)) => Event::Frame {
                    peer,
                    request,
                    frame,
                    chunks,
                },
                Some(Err(error)) => Event::Fault {
                    peer,
                    reason: format!("a bad frame: {error}"),
                },
                None => Event::Lost {
                    peer,
                    reason: "decoding failed here".into(),
                },
            }
        }
        Ok(FetchReply::Done { request, missing }) => Event::Done {
            peer,
            request,
            missing,
        },
        Ok(FetchReply::Have(runs)) => Event::Have { peer, runs },
        Ok(FetchReply::Manifest(_)) => Event::Fault {
            peer,
            reason: "a manifest that nobody asked for".into(),
        },
        Err(error) => Event::Fault {
            peer,
            reason: error.to_string(),
        },
    }
}
