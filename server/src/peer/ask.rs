//! Questions to other sites, and answers to theirs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::{RecvStream, SendStream};
use uuid::Uuid;
use vitrail_proto::record::{RECORD_LEN_MAX, Record};
use vitrail_proto::wire::{
    Answer, MESSAGE_LEN_MAX, PathFigures, Progress, ProgressState, Question, StreamKind,
};

use super::Peers;
use super::links::Link;
use super::message::{self, MessageError};
use crate::catalogue::{Image, Intent};

/// Near sites that are asked for an unknown image.
const ASKED_MAX: usize = 3;
/// How long they have.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a site tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// A site that tells nothing for so long is lost.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);

impl Peers {
    /// Answers one question.
    pub(super) async fn answer(
        self: Arc<Self>,
        link: &Link,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), MessageError> {
        let question = message::read(&mut recv, MESSAGE_LEN_MAX).await?;
        let question = question.ok_or(MessageError::Unexpected("a stream without a question"))?;
        match Question::decode(&question)? {
            Question::Record(id) => {
                let catalogue = self.catalogue.clone();
                let record = super::serve::blocking(move || catalogue.record(id)).await;
                let bytes = record.and_then(Result::ok).flatten().map(|r| r.encode());
                let answer = Answer::Record(bytes.unwrap_or_default().into());
                message::write(&mut send, &answer.encode()).await?;
            }
            Question::Hold(id) => {
                let mut hold = Hold::begin(self.clone(), id, true);
                loop {
                    let progress = hold.next().await;
                    let running = progress.state == ProgressState::Running;
                    message::write(&mut send, &Answer::Progress(progress).encode()).await?;
                    if !running {
                        break;
                    }
                }
            }
            Question::Vouch(id) => {
                let yes = self.vouches(id).await;
                message::write(&mut send, &Answer::Vouched(yes).encode()).await?;
            }
            Question::Evict(id) => {
                let evicted = self.evict(id).await;
                message::write(&mut send, &Answer::Evicted(evicted).encode()).await?;
            }
            Question::Path => {
                let figures = link
                    .figures()
                    .ok_or(MessageError::Unexpected("no controller"))?;
                message::write(&mut send, &Answer::Path(figures).encode()).await?;
            }
        }
        let _ended = send.finish();
        // The asker has everything when it closes its side, or the link.
        let _closed = send.stopped().await;
        Ok(())
    }

    /// Asks near sites for an image whose news has not come yet, until this site knows enough of it.
    pub async fn learn_image(&self, id: Uuid, enough: impl Fn(Option<&Image>) -> bool) {
        let mut links = self.links.all();
        links.sort_by_key(|link| link.rtt());
        links.truncate(ASKED_MAX);
        let asked = links.iter().map(|link| async move {
            let answer = tokio::time::timeout(RECORD_TIMEOUT, ask_record(link, id));
            answer.await.ok()?.ok()?
        });
        let mut answers: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = answers.next().await {
            let Some(record) = answer else { continue };
            let catalogue = self.catalogue.clone();
            let merged = super::serve::blocking(move || catalogue.merge(record)).await;
            if let Some(Err(error)) = merged {
                tracing::error!(%id, %error, "a record from elsewhere was not taken");
            }
            if enough(self.catalogue.get(id).as_deref()) {
                return;
            }
        }
    }

    /// Asks a site to hold an image; `tell` hears how it goes. Returns when the bytes are durable there.
    pub(super) async fn hold_at(
        &self,
        link: &Link,
        id: Uuid,
        tell: &mut (dyn FnMut(&Progress) + Send),
    ) -> Result<(), String> {
        let (_send, mut recv) = ask(link, &Question::Hold(id))
            .await
            .map_err(|e| e.to_string())?;
        loop {
            let answer =
                tokio::time::timeout(PROGRESS_TIMEOUT, message::read(&mut recv, MESSAGE_LEN_MAX));
            let bytes = match answer.await {
                Err(_) => {
                    return Err(format!(
                        "it said nothing for {} s",
                        PROGRESS_TIMEOUT.as_secs()
                    ));
                }
                Ok(Err(error)) => return Err(error.to_string()),
                Ok(Ok(None)) => return Err("it ended the stream".into()),
                Ok(Ok(Some(bytes))) => bytes,
            };
            link.touch();
            let Answer::Progress(progress) = Answer::decode(&bytes).map_err(|e| e.to_string())?
            else {
                return Err("it answered something else than progress".into());
            };
            tell(&progress);
            match progress.state {
                ProgressState::Running => {}
                ProgressState::Held => return Ok(()),
                ProgressState::Failed => return Err(progress.text),
            }
        }
    }
}

/// The one answer to a question.
pub(super) async fn ask_once(link: &Link, question: &Question) -> Result<Answer, MessageError> {
    let (_send, mut recv) = ask(link, question).await?;
    let bytes = message::read(&mut recv, MESSAGE_LEN_MAX).await?;
    let bytes = bytes.ok_or(MessageError::Unexpected("no answer"))?;
    Ok(Answer::decode(&bytes)?)
}

/// What the other end of a link knows of the path to here.
pub(super) async fn ask_path(link: &Link) -> Result<PathFigures, MessageError> {
    match ask_once(link, &Question::Path).await? {
        Answer::Path(figures) => Ok(figures),
        _ => Err(MessageError::Unexpected("an answer to another question")),
    }
}

async fn ask(link: &Link, question: &Question) -> Result<(SendStream, RecvStream), MessageError> {
    let lost = |error: String| MessageError::Lost(error);
    let (mut send, recv) = link
        .connection
        .open_bi()
        .await
        .map_err(|e| lost(e.to_string()))?;
    link.touch();
    send.write_all(&[StreamKind::Ask.number()])
        .await
        .map_err(|e| lost(e.to_string()))?;
    message::write(&mut send, &question.encode()).await?;
    Ok((send, recv))
}

async fn ask_record(link: &Link, id: Uuid) -> Result<Option<Record>, MessageError> {
    let (_send, mut recv) = ask(link, &Question::Record(id)).await?;
    let bytes = message::read(&mut recv, RECORD_LEN_MAX + 16).await?;
    let bytes = bytes.ok_or(MessageError::Unexpected("no answer"))?;
    match Answer::decode(&bytes)? {
        Answer::Record(bytes) if bytes.is_empty() => Ok(None),
        Answer::Record(bytes) => {
            let record = Record::decode(&bytes)?;
            if record.id != id {
                return Err(MessageError::Unexpected("the record of another image"));
            }
            Ok(Some(record))
        }
        _ => Err(MessageError::Unexpected("an answer to another question")),
    }
}

/// This site brings itself to hold an image.
pub(super) struct Hold {
    peers: Arc<Peers>,
    task: tokio::task::JoinHandle<Result<(), String>>,
    follow: Arc<Follow>,
    ended: bool,
}

/// What is known of how far it is.
#[derive(Default)]
struct Follow {
    /// Bytes of the image's data.
    total_bytes: OnceLock<u64>,
    /// The pull, if something is missing.
    pull: OnceLock<Arc<super::PullHandle>>,
}

impl Hold {
    /// `keep` tells whether the copy is to stay; otherwise it is a cached one.
    pub(super) fn begin(peers: Arc<Peers>, id: Uuid, keep: bool) -> Self {
        let follow = Arc::new(Follow::default());
        let (this, followed) = (peers.clone(), follow.clone());
        let task = peers
            .tasks
            .spawn(async move { this.hold(id, keep, &followed).await });
        Self {
            peers,
            task,
            follow,
            ended: false,
        }
    }

    /// How far it is, some time later; the last is not running.
    pub(super) async fn next(&mut self) -> Progress {
        let ended = tokio::time::timeout(PROGRESS_INTERVAL, &mut self.task).await;
        let (state, text) = match ended {
            Err(_) => (ProgressState::Running, String::new()),
            Ok(Ok(Ok(()))) => (ProgressState::Held, String::new()),
            Ok(Ok(Err(reason))) => (ProgressState::Failed, reason),
            Ok(Err(error)) => (ProgressState::Failed, error.to_string()),
        };
        self.ended = state != ProgressState::Running;
        let total_bytes = self.follow.total_bytes.get().copied().unwrap_or(0);
        let done_bytes = match self.follow.pull.get() {
            _ if state == ProgressState::Held => total_bytes,
            Some(pull) => pull.progress().0,
            None => 0,
        };
        Progress {
            state,
            done_bytes,
            total_bytes,
            text,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Whoever asked is gone: the pull ends with its last interest.
        if !self.ended {
            tracing::debug!(site = self.peers.site, "holding was not waited for");
            self.task.abort();
        }
    }
}

impl Peers {
    /// Brings this site to hold an image, durably.
    async fn hold(self: &Arc<Self>, id: Uuid, keep: bool, follow: &Follow) -> Result<(), String> {
        let has_data = |image: Option<&Image>| image.is_some_and(|image| image.data.is_some());
        if !has_data(self.catalogue.get(id).as_deref()) {
            self.learn_image(id, has_data).await;
        }
        let image = self.catalogue.get(id);
        let data = match image.as_ref().map(|image| image.data.clone()) {
            None => return Err(format!("site {} does not know image {id} yet", self.site)),
            Some(None) => return Err(format!("image {id} has no data yet")),
            Some(Some(data)) => data,
        };
        let lease = self.store.lease();
        lease.add_manifest(data.manifest);
        if keep {
            let catalogue = self.catalogue.clone();
            let write = move || catalogue.copies().set(data.manifest, Some(Intent::Keep));
            super::serve::blocking(write)
                .await
                .ok_or("writing failed")?
                .map_err(|error| error.to_string())?;
        }
        let manifest = self.manifest_of(id, &data, &lease).await?;
        let _first = follow.total_bytes.set(manifest.data_size());
        match self.pull(data.manifest, Some(id), true, None).await? {
            Some(interest) => {
                let _first = follow.pull.set(interest.pull().clone());
                interest.finished().await?;
            }
            None => {
                // Some of it may be of a pull that goes on, and not be durable yet.
                let store = self.store.clone();
                let committed = super::serve::blocking(move || store.commit()).await;
                committed
                    .ok_or("committing failed")?
                    .map_err(|error| error.to_string())?;
            }
        }
        self.copy_arrived(data.manifest).await;
        Ok(())
    }
}
