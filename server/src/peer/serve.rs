//! Answering other sites: manifests and chunks, and questions.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use vitrail_chunkstore::frame::Encoder;
use vitrail_chunkstore::{Error, Store};
use vitrail_proto::congestion::Class;
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::runs::Runs;
use vitrail_proto::wire::{FetchReply, FetchRequest, MESSAGE_LEN_MAX};

use super::links::Link;
use super::message::{self, MessageError};
use super::pull::Pulls;

/// Requests of one stream that may wait; a puller that sends more is slowed down.
const REQUESTS_MAX: usize = 64;
/// Uncompressed bytes that are read and encoded at once for one stream.
const SLICE_LEN: u64 = 1024 * 1024;
/// Slices in the making at once, over all peers: each takes some 3 MiB.
const SLICES_MAX: usize = 8;
/// How often a holder of a part looks whether it has more.
const HAVE_INTERVAL: Duration = Duration::from_millis(250);
/// It tells when it has gained this part of the image.
const HAVE_STEPS: u64 = 128;

/// What serving needs.
pub(super) struct Server {
    store: Store,
    /// Those of this site: what they have brought is known without asking the store.
    pulls: Arc<Pulls>,
    slices: Arc<Semaphore>,
    level: i32,
}

enum Job {
    Request(FetchRequest),
    End(Result<(), MessageError>),
}

/// A manifest that a stream is about.
struct Opened {
    manifest: ManifestId,
    chunks: Arc<Vec<(ChunkId, u32)>>,
    /// What the puller wants to be told, if it does.
    have: Option<Told>,
}

/// What a puller was told of what is here.
struct Told {
    runs: Runs,
    /// What was here when it was last looked at.
    seen: Runs,
}

impl Opened {
    fn is_partial(&self) -> bool {
        let all = self.chunks.len() as u64;
        self.have
            .as_ref()
            .is_some_and(|told| told.runs.count() < all)
    }
}

impl Server {
    pub(super) fn new(store: Store, pulls: Arc<Pulls>, level: i32) -> Self {
        Self {
            store,
            pulls,
            slices: Arc::new(Semaphore::new(SLICES_MAX)),
            level,
        }
    }

    /// Serves one fetch stream to its end.
    pub(super) async fn fetch(
        &self,
        link: &Link,
        mut send: SendStream,
        recv: RecvStream,
    ) -> Result<(), MessageError> {
        let cancelled = Arc::new(Mutex::new(HashSet::new()));
        let (jobs, mut queue) = mpsc::channel(REQUESTS_MAX);
        let reader = tokio::spawn(read_requests(recv, jobs, cancelled.clone()));
        let result = self.answer(link, &mut send, &mut queue, &cancelled).await;
        reader.abort();
        result
    }

    async fn answer(
        &self,
        link: &Link,
        send: &mut SendStream,
        queue: &mut mpsc::Receiver<Job>,
        cancelled: &Mutex<HashSet<u32>>,
    ) -> Result<(), MessageError> {
        let mut opened: Option<Opened> = None;
        let mut work = link.work(Class::Interactive);
        let mut encoder =
            Encoder::new(self.level).map_err(|_| MessageError::Unexpected("no encoder"))?;
        let mut look = tokio::time::interval(HAVE_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let partial = opened.as_ref().is_some_and(Opened::is_partial);
            let job = tokio::select! {
                job = queue.recv() => job,
                _ = look.tick(), if partial => {
                    if let Some(opened) = &mut opened {
                        self.tell_more(link, send, opened).await?;
                    }
                    continue;
                }
            };
            link.touch();
            let request = match job {
                Some(Job::Request(request)) => request,
                Some(Job::End(result)) => return result,
                None => return Ok(()),
            };
            match request {
                FetchRequest::WantManifest(id) => {
                    let bytes = self.manifest_bytes(id).await;
                    self.send(link, send, FetchReply::Manifest(bytes)).await?;
                }
                FetchRequest::Open(id) => opened = self.open(id).await,
                FetchRequest::WantHave => {
                    let have = match &mut opened {
                        Some(opened) => self.tell(opened).await?,
                        None => Runs::new(),
                    };
                    self.send(link, send, FetchReply::Have(have)).await?;
                }
                FetchRequest::Get { request, chunks } => {
                    let cancelled = cancelled.lock().remove(&request);
                    let missing = match &opened {
                        _ if cancelled => Runs::new(),
                        None => chunks,
                        Some(opened) => {
                            let (missing, used) = self
                                .get(link, send, opened, request, &chunks, encoder)
                                .await?;
                            encoder = used;
                            missing
                        }
                    };
                    self.send(link, send, FetchReply::Done { request, missing })
                        .await?;
                }
                FetchRequest::Class(class) => work.set_class(class),
                FetchRequest::First => {
                    let _closed = send.set_priority(1);
                }
                FetchRequest::Cancel { .. } => {}
            }
        }
    }

    async fn send(
        &self,
        link: &Link,
        send: &mut SendStream,
        reply: FetchReply,
    ) -> Result<(), MessageError> {
        let message = reply.encode();
        link.tx_bytes.inc_by(message.len() as u64);
        message::write(send, &message).await
    }

    async fn manifest_bytes(&self, id: ManifestId) -> Bytes {
        let store = self.store.clone();
        let found = blocking(move || store.manifest(id).map(|m| m.encode())).await;
        found.and_then(Result::ok).unwrap_or_default().into()
    }

    async fn open(&self, id: ManifestId) -> Option<Opened> {
        let store = self.store.clone();
        let manifest = blocking(move || store.manifest(id)).await?.ok()?;
        Some(Opened {
            manifest: id,
            chunks: Arc::new(manifest.chunks().collect()),
            have: None,
        })
    }

    async fn held(&self, opened: &Opened) -> Result<Runs, MessageError> {
        if let Some(runs) = self.pulls.present(opened.manifest) {
            return Ok(runs);
        }
        let (store, chunks) = (self.store.clone(), opened.chunks.clone());
        let held = blocking(move || held(&store, &chunks)).await;
        held.and_then(Result::ok)
            .ok_or(MessageError::Unexpected("the holder failed"))
    }

    /// What is here now, which the puller is about to be told.
    async fn tell(&self, opened: &mut Opened) -> Result<Runs, MessageError> {
        let runs = self.held(opened).await?;
        opened.have = Some(Told {
            runs: runs.clone(),
            seen: runs.clone(),
        });
        Ok(runs)
    }

    /// Tells the puller that there is more, if it is a good part more, or does not become more any longer.
    async fn tell_more(
        &self,
        link: &Link,
        send: &mut SendStream,
        opened: &mut Opened,
    ) -> Result<(), MessageError> {
        let now = self.held(opened).await?;
        let Some(told) = &mut opened.have else {
            return Ok(());
        };
        let all = opened.chunks.len() as u64;
        let gained = now.count().saturating_sub(told.runs.count());
        let rests = now == std::mem::replace(&mut told.seen, now.clone());
        if now == told.runs || !(rests || gained > all / HAVE_STEPS || now.count() == all) {
            return Ok(());
        }
        told.runs = now.clone();
        tracing::trace!(manifest = %opened.manifest, count = now.count(), "holds more");
        self.send(link, send, FetchReply::Have(now)).await
    }

    /// Sends what it has of the chunks asked for, slice by slice; returns what it has not.
    async fn get(
        &self,
        link: &Link,
        send: &mut SendStream,
        opened: &Opened,
        request: u32,
        wanted: &Runs,
        mut encoder: Encoder,
    ) -> Result<(Runs, Encoder), MessageError> {
        let mut missing = Vec::new();
        let mut indexes = wanted.iter().peekable();
        while indexes.peek().is_some() {
            let (mut slice, mut len) = (Vec::new(), 0);
            while let Some(&index) = indexes.peek() {
                let Some(&(id, chunk_len)) = opened.chunks.get(index as usize) else {
                    return Err(MessageError::Unexpected(
                        "a chunk index beyond the manifest",
                    ));
                };
                if len > 0 && len + u64::from(chunk_len) > SLICE_LEN {
                    break;
                }
                len += u64::from(chunk_len);
                slice.push((index, id));
                indexes.next();
            }
            let permit = self.slices.acquire().await;
            let store = self.store.clone();
            let made = blocking(move || {
                let made = make_frames(&store, &slice, &mut encoder);
                (made, encoder)
            })
            .await;
            let Some((made, used)) = made else {
                return Err(MessageError::Unexpected("the holder failed"));
            };
            encoder = used;
            let (frames, lacking) =
                made.map_err(|_| MessageError::Unexpected("the holder failed"))?;
            missing.extend(lacking);
            for frame in frames {
                let head = FetchReply::Frame {
                    request,
                    frame: Bytes::new(),
                }
                .encode();
                link.tx_bytes.inc_by((head.len() + frame.len()) as u64);
                message::write_parts(send, &head, &frame).await?;
            }
            drop(permit);
        }
        Ok((Runs::of(missing), encoder))
    }
}

/// Frames of the chunks that are there, and the indexes of those that are not.
fn make_frames(
    store: &Store,
    slice: &[(u32, ChunkId)],
    encoder: &mut Encoder,
) -> Result<(Vec<Bytes>, Vec<u32>), Error> {
    let mut present: Vec<(u32, ChunkId)> = slice.to_vec();
    let mut lacking = Vec::new();
    // A chunk found damaged leaves the index, so each round has fewer; a slice has few chunks.
    loop {
        let ids: Vec<ChunkId> = present.iter().map(|(_, id)| *id).collect();
        let missing: HashSet<usize> = store.missing(&ids)?.into_iter().collect();
        let (gone, there): (Vec<_>, Vec<_>) = present
            .iter()
            .enumerate()
            .partition(|(i, _)| missing.contains(i));
        lacking.extend(gone.iter().map(|(_, (index, _))| *index));
        present = there.into_iter().map(|(_, chunk)| *chunk).collect();
        let ids: Vec<ChunkId> = present.iter().map(|(_, id)| *id).collect();
        match store.frames(&ids, encoder) {
            Ok(frames) => {
                lacking.sort_unstable();
                return Ok((frames, lacking));
            }
            Err(Error::Damaged(damage)) => tracing::error!(%damage, "found while serving a peer"),
            Err(Error::MissingChunk(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Indexes of the chunks that the store has.
pub(super) fn held(store: &Store, chunks: &[(ChunkId, u32)]) -> Result<Runs, Error> {
    const BATCH: usize = 1000;
    let mut held = Vec::with_capacity(chunks.len());
    for (batch, start) in chunks.chunks(BATCH).zip((0u32..).step_by(BATCH)) {
        let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
        let mut missing = store.missing(&ids)?.into_iter().peekable();
        for i in 0..batch.len() {
            if missing.next_if_eq(&i).is_none() {
                held.push(start + i as u32);
            }
        }
    }
    Ok(Runs::of(held))
}

async fn read_requests(
    mut recv: RecvStream,
    jobs: mpsc::Sender<Job>,
    cancelled: Arc<Mutex<HashSet<u32>>>,
) {
    let result = loop {
        match message::read(&mut recv, MESSAGE_LEN_MAX).await {
            Ok(None) => break Ok(()),
            Ok(Some(bytes)) => match FetchRequest::decode(&bytes) {
                Ok(FetchRequest::Cancel { request }) => {
                    let mut cancelled = cancelled.lock();
                    // Numbers of requests that were answered already pile up otherwise.
                    if cancelled.len() >= REQUESTS_MAX * 4 {
                        cancelled.clear();
                    }
                    cancelled.insert(request);
                }
                Ok(request) => {
                    if jobs.send(Job::Request(request)).await.is_err() {
                        return;
                    }
                }
                Err(error) => break Err(error.into()),
            },
            Err(error) => break Err(error),
        }
    };
    // The answerer may have ended first.
    let _ended = jobs.send(Job::End(result)).await;
}

/// Runs work that waits for the disk; none if it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "a blocking task failed");
            None
        }
    }
}
