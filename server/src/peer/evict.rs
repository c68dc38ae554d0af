//! Giving up copies, but never the last one.
//!
//! A site gives up its copy of an image only after another site has vouched for its own: that it has every chunk and is
//! not giving it up. While a site asks it vouches for nothing itself, so of two sites that want to give up the last two
//! copies at once neither does. The intent is written after the vouching: a site that stops in between keeps its copy.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use vitrail_proto::fetch::Have;
use vitrail_proto::gossip::Holding;
use vitrail_proto::id::ManifestId;
use vitrail_proto::wire::{Answer, Evicted, Question};

use super::Peers;
use super::ask::ask_once;
use super::gossip::held;
use super::serve::blocking;
use crate::catalogue::Intent;

/// Holders that are asked to vouch, nearest first.
const ASKED_MAX: usize = 8;
/// How long one has: it looks up every chunk of the image.
const VOUCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a site has to give up a copy: it asks several others.
const EVICT_TIMEOUT: Duration = Duration::from_secs(100);

impl Peers {
    /// Drives a site to give up its copy of an image.
    pub async fn evict_at(self: &Arc<Self>, site: &str, image: Uuid) -> Evicted {
        if site == self.site {
            return self.evict(image).await;
        }
        let asked = async {
            let link = self
                .link_to_name(site)
                .await
                .map_err(|e| format!("{e:#}"))?;
            let answer = ask_once(&link, &Question::Evict(image)).await;
            match answer.map_err(|error| error.to_string())? {
                Answer::Evicted(evicted) => Ok(evicted),
                _ => Err("it answered another question".to_owned()),
            }
        };
        match tokio::time::timeout(EVICT_TIMEOUT, asked).await {
            Ok(Ok(evicted)) => evicted,
            Ok(Err(reason)) => Evicted::Failed(reason),
            Err(_) => Evicted::Failed(format!(
                "it did not answer in {} s",
                EVICT_TIMEOUT.as_secs()
            )),
        }
    }

    /// Gives up this site's copy of an image. Its chunks go with the next collection.
    pub(super) async fn evict(&self, image: Uuid) -> Evicted {
        let Some(id) = self.catalogue.get(image).and_then(|i| i.manifest()) else {
            return Evicted::NotHeld;
        };
        let copies = self.catalogue.copies();
        let store = self.store.clone();
        let has_some = blocking(move || store.manifest(id).is_ok()).await;
        if copies.intent(id) == Some(Intent::Evict) || has_some != Some(true) {
            return Evicted::NotHeld;
        }
        let Some(leaving) = copies.leave(id) else {
            return Evicted::Failed("it is being given up already".into());
        };
        let evicted = if self.is_vouched_for(id).await {
            let catalogue = self.catalogue.clone();
            let written = move || catalogue.copies().set(id, Some(Intent::Evict));
            match blocking(written).await {
                Some(Ok(())) => Evicted::Done,
                Some(Err(error)) => Evicted::Failed(error.to_string()),
                None => Evicted::Failed("writing failed".into()),
            }
        } else {
            Evicted::LastCopy
        };
        drop(leaving);
        self.holding_changed(id).await;
        tracing::info!(%image, outcome = ?evicted, "eviction");
        evicted
    }

    /// Whether some other site vouches for its copy.
    async fn is_vouched_for(&self, id: ManifestId) -> bool {
        let holders = self.holders(id).into_iter().filter(|h| h.have == Have::All);
        for holder in holders.take(ASKED_MAX) {
            let asked = async {
                let link = self.link_to(&holder).await.ok()?;
                ask_once(&link, &Question::Vouch(id)).await.ok()
            };
            let answer = tokio::time::timeout(VOUCH_TIMEOUT, asked).await;
            if matches!(answer, Ok(Some(Answer::Vouched(true)))) {
                return true;
            }
        }
        false
    }

    /// Whether this site has every chunk of a manifest, as an image's, and is not giving it up.
    pub(super) async fn vouches(&self, id: ManifestId) -> bool {
        let (store, catalogue) = (self.store.clone(), self.catalogue.clone());
        blocking(move || {
            let copies = catalogue.copies();
            !copies.is_leaving(id)
                && catalogue.manifests().contains(&id)
                && held(&store, id) == Holding::Complete
        })
        .await
            == Some(true)
    }
}
