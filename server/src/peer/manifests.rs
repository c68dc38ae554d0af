//! Manifests from other sites: fetched once for any number of readers, and those of new images before anybody reads.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use quinn::RecvStream;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use vitrail_chunkstore::Lease;
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::{MANIFEST_LEN_MAX, Manifest};
use vitrail_proto::record::{DATA, Data};
use vitrail_proto::wire::{FetchReply, FetchRequest, StreamKind};

use super::links::Link;
use super::message::{self, MessageError};
use super::serve::blocking;
use super::{Holder, Peers};

/// How long the word of who holds a new image may come behind its record: the slowest of 1,000 simulated sites
/// heard it after 3.9 s.
const HOLDER_PATIENCE: Duration = Duration::from_secs(5);
/// A holder that has not begun to answer for so long gets company.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long those who were asked have to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A holder that sends less than this in [`STEADY_TIME`] is too slow to be waited for.
const STEADY_LEN: usize = 64 * 1024;
const STEADY_TIME: Duration = Duration::from_secs(5);

/// Length of the longest manifest that is fetched ahead: about 6 GiB of image.
const AHEAD_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of all that are kept; the oldest make room.
const AHEAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Manifests that wait to be fetched ahead; more are left to their readers.
const AHEAD_QUEUE_MAX: usize = 64;
/// What all sites together may cost a holder in bytes per second, since they hear of an image at about the same time.
const AHEAD_RATE: f64 = 1e6;
/// What a holder can give at once: 100 kB in all.
const SPREAD_MIN: Duration = Duration::from_millis(100);
/// Bytes of image for each byte of its manifest, about: 64 KiB chunks, each named in 40 bytes.
const IMAGE_TO_MANIFEST: u64 = 64 * 1024 / 40;

/// What this site fetches and has fetched ahead.
pub(super) struct Manifests {
    /// For readers, into the store.
    reading: Flights<Arc<Manifest>>,
    /// Ahead of readers, into `kept`.
    ahead: Flights<Bytes>,
    kept: Mutex<Kept>,
    queue: mpsc::Sender<(ManifestId, u64)>,
    receiver: Mutex<Option<mpsc::Receiver<(ManifestId, u64)>>>,
}

impl Manifests {
    pub(super) fn new() -> Self {
        let (queue, receiver) = mpsc::channel(AHEAD_QUEUE_MAX);
        Self {
            reading: Flights::default(),
            ahead: Flights::default(),
            kept: Mutex::default(),
            queue,
            receiver: Mutex::new(Some(receiver)),
        }
    }

    /// There is a new image of `size` bytes: its manifest will be wanted if the image is.
    pub(super) fn announce(&self, id: ManifestId, size: u64) {
        if size / IMAGE_TO_MANIFEST <= AHEAD_LEN_MAX {
            let _left_to_readers = self.queue.try_send((id, size));
        }
    }
}

/// Encoded manifests that were fetched ahead, the oldest first. In memory only: they are a convenience.
#[derive(Default)]
struct Kept {
    list: VecDeque<(ManifestId, Bytes)>,
    len: usize,
}

impl Kept {
    fn add(&mut self, id: ManifestId, bytes: Bytes) {
        self.len += bytes.len();
        self.list.push_back((id, bytes));
        while self.len > AHEAD_BYTES_MAX
            && let Some((_, oldest)) = self.list.pop_front()
        {
            self.len -= oldest.len();
        }
    }

    fn take(&mut self, id: ManifestId) -> Option<Bytes> {
        let at = self.list.iter().position(|(kept, _)| *kept == id)?;
        let (_, bytes) = self.list.remove(at)?;
        self.len -= bytes.len();
        Some(bytes)
    }
}

type Outcome<T> = watch::Receiver<Option<Result<T, String>>>;
type Teller<T> = watch::Sender<Option<Result<T, String>>>;

/// Work that is done once for all who want it at the same time.
struct Flights<T>(Mutex<HashMap<ManifestId, Outcome<T>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// Joins what is under way; none if nothing is.
    fn join(&self, id: ManifestId) -> Option<Outcome<T>> {
        self.0.lock().get(&id).cloned()
    }

    /// Joins what is under way. If nothing is, the caller has to do it, and to [`Flights::end`] it.
    fn join_or_begin(&self, id: ManifestId) -> (Outcome<T>, Option<Teller<T>>) {
        let mut flights = self.0.lock();
        if let Some(outcome) = flights.get(&id) {
            return (outcome.clone(), None);
        }
        let (teller, outcome) = watch::channel(None);
        flights.insert(id, outcome.clone());
        (outcome, Some(teller))
    }

    fn end(&self, id: ManifestId, teller: &Teller<T>, result: Result<T, String>) {
        self.0.lock().remove(&id);
        teller.send_replace(Some(result));
    }
}

async fn outcome<T: Clone>(mut flight: Outcome<T>) -> Result<T, String> {
    let ended = flight.wait_for(Option::is_some).await;
    match ended.map(|outcome| outcome.clone()) {
        Ok(Some(result)) => result,
        _ => Err("fetching the manifest was given up".into()),
    }
}

impl Peers {
    /// The manifest of an image, which is in the store then, from another site if need be; the lease keeps it. One
    /// that does not fit what the record says of the bytes is refused.
    pub async fn manifest_of(
        self: &Arc<Self>,
        image: Uuid,
        data: &Data,
        lease: &Lease,
    ) -> Result<Arc<Manifest>, String> {
        let manifest = self.ensure_manifest(data.manifest, lease).await?;
        let says = (data.size, &data.md5, &data.sha512);
        if says == (manifest.size(), manifest.md5(), manifest.sha512()) {
            return Ok(manifest);
        }
        let catalogue = self.catalogue.clone();
        let record = blocking(move || catalogue.record(image)).await;
        let record = record.and_then(Result::ok).flatten();
        let writer = record.and_then(|record| Some(record.stamp(DATA)?.site()));
        let writer = writer.map_or_else(String::new, |site| self.gossip.name_of(site));
        Err(format!(
            "the record, written by site {writer}, says other size and hashes than the manifest that it names"
        ))
    }

    /// Makes sure that the manifest is in the store, from another site if need be. The lease keeps it.
    pub(super) async fn ensure_manifest(
        self: &Arc<Self>,
        id: ManifestId,
        lease: &Lease,
    ) -> Result<Arc<Manifest>, String> {
        lease.add_manifest(id);
        let store = self.store.clone();
        if let Some(Ok(manifest)) = blocking(move || store.manifest(id)).await {
            return Ok(manifest);
        }
        let (flight, teller) = self.manifests.reading.join_or_begin(id);
        if let Some(teller) = teller {
            // On its own, since whoever began it may go away before others who have joined.
            let this = self.clone();
            self.tasks.spawn(async move {
                let result = this.bring_manifest(id).await;
                this.manifests.reading.end(id, &teller, result);
            });
        }
        outcome(flight).await
    }

    async fn bring_manifest(&self, id: ManifestId) -> Result<Arc<Manifest>, String> {
        let bytes = match self.manifest_ahead(id).await {
            Some(bytes) => bytes,
            None => self.fetch_manifest(id, MANIFEST_LEN_MAX).await?,
        };
        let store = self.store.clone();
        let stored = blocking(move || {
            let manifest = Manifest::decode(&bytes).map_err(|e| e.to_string())?;
            // The reader's own lease names it too, and lasts.
            let stored = store.put_manifest(&manifest, &store.lease());
            stored.map_err(|e| e.to_string())?;
            Ok(Arc::new(manifest))
        });
        stored
            .await
            .unwrap_or_else(|| Err("storing the manifest failed".into()))
    }

    /// A manifest that was fetched ahead, or is just being fetched.
    async fn manifest_ahead(&self, id: ManifestId) -> Option<Bytes> {
        if let Some(flight) = self.manifests.ahead.join(id) {
            return outcome(flight).await.ok();
        }
        self.manifests.kept.lock().take(id)
    }

    /// Fetches the manifests of new images, one after the other, until the daemon stops.
    pub(super) async fn fetch_manifests_ahead(self: Arc<Self>) {
        let Some(mut queue) = self.manifests.receiver.lock().take() else {
            return;
        };
        let work = async {
            while let Some((id, size)) = queue.recv().await {
                let sites = self.gossip.sites().len() as f64;
                let len = size.div_ceil(IMAGE_TO_MANIFEST) as f64;
                let spread = Duration::from_secs_f64(sites * len / AHEAD_RATE);
                if spread > SPREAD_MIN {
                    tokio::time::sleep(spread.mul_f64(rand::random())).await;
                }
                self.fetch_manifest_ahead(id).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn fetch_manifest_ahead(&self, id: ManifestId) {
        let store = self.store.clone();
        let held = blocking(move || store.manifest(id).is_ok()).await;
        if held != Some(false) || self.manifests.reading.join(id).is_some() {
            return;
        }
        if let (_, Some(teller)) = self.manifests.ahead.join_or_begin(id) {
            let result = self.fetch_manifest(id, AHEAD_LEN_MAX).await;
            match &result {
                Ok(bytes) => self.manifests.kept.lock().add(id, bytes.clone()),
                Err(reason) => tracing::debug!(%id, reason, "no manifest ahead of its readers"),
            }
            self.manifests.ahead.end(id, &teller, result);
        }
    }

    /// The bytes of a manifest, verified against its id, from the first holder that has them.
    async fn fetch_manifest(&self, id: ManifestId, len_max: u64) -> Result<Bytes, String> {
        let mut reasons = Vec::new();
        self.wait_for_holders(id).await;
        let mut asked = FuturesUnordered::new();
        // Who was asked, and whether it is still waited for.
        let mut waiting: BTreeMap<String, bool> = BTreeMap::new();
        // Looked up each time, since it may be news that keeps a holder from being asked, or a lie.
        let next = |waiting: &mut BTreeMap<String, bool>| {
            let mut holders = self.holders(id).into_iter();
            let holder = holders.find(|holder| !waiting.contains_key(&holder.name))?;
            waiting.insert(holder.name.clone(), true);
            Some(self.ask_manifest(holder, id, len_max))
        };
        let mut deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        loop {
            if asked.is_empty() {
                match next(&mut waiting) {
                    Some(ask) => asked.push(ask),
                    None => break,
                }
            }
            tokio::select! {
                Some((holder, answer)) = asked.next() => {
                    waiting.insert(holder.clone(), false);
                    let bytes = match answer {
                        Ok(answer) => answer.read(id).await,
                        Err(error) => Err(error),
                    };
                    match bytes {
                        Ok(Some(bytes)) => return Ok(bytes),
                        Ok(None) => reasons.push(format!("{holder}: it does not have it")),
                        Err(error) => {
                            tracing::warn!(peer = holder, %error, "no manifest from this holder");
                            if !matches!(error, MessageError::Lost(_)) {
                                self.metrics.peer_fault(&holder);
                            }
                            reasons.push(format!("{holder}: {error}"));
                        }
                    }
                    deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
                }
                () = tokio::time::sleep_until(deadline) => {
                    let silent = waiting.iter().filter(|(_, waiting)| **waiting);
                    let seconds = ANSWER_TIMEOUT.as_secs();
                    reasons.extend(silent.map(|(site, _)| format!("{site}: no answer in {seconds} s")));
                    break;
                }
                () = tokio::time::sleep(ANSWER_PATIENCE) => asked.extend(next(&mut waiting)),
            }
        }
        if reasons.is_empty() {
            reasons.push("no other site is known to hold it".into());
        }
        Err(format!(
            "the image's manifest could not be fetched ({})",
            reasons.join("; ")
        ))
    }

    /// Asks a holder; returns when its answer begins.
    async fn ask_manifest(
        &self,
        holder: Holder,
        id: ManifestId,
        len_max: u64,
    ) -> (String, Result<Answer, MessageError>) {
        let asked = async {
            let link = self.link_to(&holder).await;
            let link = link.map_err(|error| MessageError::Lost(format!("{error:#}")))?;
            let lost = |error: String| MessageError::Lost(error);
            let (mut send, mut recv) = link
                .connection
                .open_bi()
                .await
                .map_err(|e| lost(e.to_string()))?;
            link.touch();
            send.write_all(&[StreamKind::Fetch.number()])
                .await
                .map_err(|e| lost(e.to_string()))?;
            message::write(&mut send, &FetchRequest::WantManifest(id).encode()).await?;
            // The kind of the message and the length of its bytes come with them.
            let len = message::read_len(&mut recv, len_max as usize + 16).await?;
            let len = len.ok_or(MessageError::Unexpected("it ended the stream"))?;
            Ok(Answer { link, recv, len })
        };
        let answer = asked.await;
        (holder.name, answer)
    }

    /// Waits until somebody holds a manifest. The record of a new image may come before the word of who holds it, so that is waited for
    /// a while.
    async fn wait_for_holders(&self, id: ManifestId) {
        let deadline = tokio::time::Instant::now() + HOLDER_PATIENCE;
        loop {
            let changed = self.gossip.holdings_changed();
            if !self.holders(id).is_empty()
                || tokio::time::timeout_at(deadline, changed).await.is_err()
            {
                return;
            }
        }
    }
}

/// A holder's answer that has begun.
struct Answer {
    link: Arc<Link>,
    recv: RecvStream,
    len: usize,
}

impl Answer {
    /// The rest of it: a manifest's bytes, or none if the holder does not have it.
    async fn read(mut self, id: ManifestId) -> Result<Option<Bytes>, MessageError> {
        let reply =
            message::read_steadily(&mut self.recv, self.len, STEADY_LEN, STEADY_TIME).await?;
        self.link.rx_bytes.inc_by(reply.len() as u64);
        self.link.touch();
        let FetchReply::Manifest(bytes) = FetchReply::decode(&reply)? else {
            return Err(MessageError::Unexpected(
                "it answered something else than a manifest",
            ));
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let checked = blocking(move || {
            if ManifestId::of(&bytes) != id {
                return Err(MessageError::Unexpected(
                    "it sent another manifest than it was asked for",
                ));
            }
            // Here, where it is known who sent it.
            Manifest::decode(&bytes)?;
            Ok(bytes)
        });
        let checked = checked.await;
        checked
            .unwrap_or(Err(MessageError::Unexpected("checking it failed here")))
            .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let mut kept = Kept::default();
        let id = |number: u8| ManifestId::of(&[number]);
        for number in 0..5 {
            kept.add(id(number), vec![number; AHEAD_BYTES_MAX / 4].into());
        }
        assert_eq!(kept.take(id(0)), None);
        assert_eq!(kept.take(id(1)), Some(vec![1; AHEAD_BYTES_MAX / 4].into()));
        assert_eq!(kept.take(id(1)), None, "taken before");
        // There is room for another now.
        kept.add(id(5), vec![5; AHEAD_BYTES_MAX / 4].into());
        assert!([2, 3, 4, 5].map(|number| kept.take(id(number)).is_some()) == [true; 4]);
        assert_eq!(kept.len, 0);
    }

    #[tokio::test]
    async fn work_is_done_once_and_all_hear_of_it() {
        let flights = Flights::default();
        let id = ManifestId::of(b"m");
        let (first, teller) = flights.join_or_begin(id);
        let (second, none) = flights.join_or_begin(id);
        assert!(none.is_none());
        flights.end(id, &teller.unwrap(), Ok(7));
        assert_eq!(outcome(first).await, Ok(7));
        assert_eq!(outcome(second).await, Ok(7));
        // It is over: the next begins anew, and one that is given up is heard of too.
        let (third, teller) = flights.join_or_begin(id);
        drop(teller.unwrap());
        outcome(third).await.unwrap_err();
    }
}
