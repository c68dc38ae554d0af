//! Driving sites to hold images.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;
use vitrail_proto::wire::{Progress, ProgressState};

use super::Peers;
use super::ask::Hold;

/// How often a site that was lost, or does not know the image yet, is asked, and how long it is waited the first time
/// between two tries; each time twice as long. What a site does not know yet is mostly on its way.
const TRIES: u32 = 7;
/// The same for a site that is down as far as this one knows: it may just be coming back.
const TRIES_DOWN: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Progress lines that wait for a slow reader; more are dropped.
const LINES_MAX: usize = 256;

/// How far a site is with an image.
#[derive(Debug, Clone, Serialize)]
pub struct PreseedProgress {
    /// The image.
    pub image: Uuid,
    /// The site.
    pub site: String,
    /// `running`, `held` or `failed`.
    pub state: &'static str,
    /// Bytes of data that are there.
    pub done_bytes: u64,
    /// Bytes of data of the image; 0 until it is known.
    pub total_bytes: u64,
    /// Why it failed, or is being tried again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Every site and image, and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct PreseedResult {
    /// Whether every site holds every image, durably.
    pub ok: bool,
    /// The last word of each pair.
    pub sites: Vec<PreseedProgress>,
}

impl Peers {
    /// Drives `sites` to hold `images`. Progress comes through the channel; the result when all have ended.
    pub fn preseed(
        self: &Arc<Self>,
        images: Vec<Uuid>,
        sites: Vec<String>,
    ) -> (
        mpsc::Receiver<PreseedProgress>,
        tokio::task::JoinHandle<PreseedResult>,
    ) {
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        let this = self.clone();
        let task = self.tasks.spawn(async move {
            let mut pairs = JoinSet::new();
            for site in sites {
                // One site takes its images one after the other; sites work side by side.
                let (this, images, lines) = (this.clone(), images.clone(), lines.clone());
                pairs.spawn(async move {
                    let mut ended = Vec::new();
                    for image in images {
                        ended.push(this.preseed_one(image, &site, &lines).await);
                    }
                    ended
                });
            }
            let mut last = BTreeMap::new();
            while let Some(ended) = pairs.join_next().await {
                for progress in ended.unwrap_or_default() {
                    last.insert((progress.site.clone(), progress.image), progress);
                }
            }
            let sites: Vec<_> = last.into_values().collect();
            let ok = !sites.is_empty() && sites.iter().all(|p| p.state == "held");
            PreseedResult { ok, sites }
        });
        (receiver, task)
    }

    async fn preseed_one(
        self: &Arc<Self>,
        image: Uuid,
        site: &str,
        lines: &mpsc::Sender<PreseedProgress>,
    ) -> PreseedProgress {
        let mut latest = PreseedProgress {
            image,
            site: site.to_owned(),
            state: "running",
            done_bytes: 0,
            total_bytes: 0,
            reason: String::new(),
        };
        for attempt in 1..=TRIES {
            let result = {
                let mut tell = |progress: &Progress| {
                    latest.done_bytes = progress.done_bytes;
                    latest.total_bytes = progress.total_bytes;
                    // A reader that is slow or gone does not stop the work.
                    let _dropped = lines.try_send(latest.clone());
                };
                let held = self.hold_once(image, site, &mut tell);
                let held = self.stop.run_until_cancelled(held).await;
                held.unwrap_or_else(|| Err("this site is stopping".into()))
            };
            match result {
                Ok(()) => {
                    latest.state = "held";
                    latest.reason.clear();
                    break;
                }
                Err(reason) => latest.reason = reason,
            }
            let tries = if self.gossip.is_up(site) {
                TRIES
            } else {
                TRIES_DOWN
            };
            if attempt >= tries {
                latest.state = "failed";
            } else {
                let _dropped = lines.try_send(latest.clone());
                tokio::select! {
                    () = tokio::time::sleep(RETRY_DELAY * (1 << (attempt - 1))) => {}
                    () = self.stop.cancelled() => {
                        latest.state = "failed";
                        latest.reason = "this site is stopping".into();
                        break;
                    }
                }
            }
        }
        let _dropped = lines.try_send(latest.clone());
        latest
    }

    async fn hold_once(
        self: &Arc<Self>,
        image: Uuid,
        site: &str,
        tell: &mut (dyn FnMut(&Progress) + Send),
    ) -> Result<(), String> {
        if site == self.site {
            let mut hold = Hold::begin(self.clone(), image, true);
            loop {
                let progress = hold.next().await;
                tell(&progress);
                match progress.state {
                    ProgressState::Running => {}
                    ProgressState::Held => return Ok(()),
                    ProgressState::Failed => return Err(progress.text),
                }
            }
        }
        let link = self
            .link_to_name(site)
            .await
            .map_err(|error| format!("{error:#}"))?;
        self.hold_at(&link, image, tell).await
    }
}
