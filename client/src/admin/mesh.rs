//! The mesh as one site sees it: the sites, bringing images to them, and what that cost.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AdminApi, Operation};
use crate::client::Api;
use crate::error::Result;

/// All methods fail with 409 if the site is alone, which means that it has no certificate of a mesh.
impl AdminApi<'_> {
    /// Every site that is known, by name; this one is among them.
    pub async fn sites(&self) -> Result<Vec<Site>> {
        self.get(&["v1", "sites"]).await
    }

    /// One site and the images that it holds.
    ///
    /// # Errors
    /// 404 if no site of this name is known.
    pub async fn site(&self, name: &str) -> Result<SiteDetail> {
        self.get(&["v1", "sites", name]).await
    }

    /// What the site may send to others and receive from them.
    pub async fn limits(&self) -> Result<Limits> {
        self.get(&["v1", "limits"]).await
    }

    /// Replaces all limits, at once and until the daemon stops. Answers those in force then.
    ///
    /// # Errors
    /// 400 for a rate that cannot be understood or is out of range.
    pub async fn set_limits(&self, limits: &Limits) -> Result<Limits> {
        let request = self
            .client
            .request(Api::Admin, Method::PUT, &["v1", "limits"])
            .json(limits);
        self.client.document(request).await
    }

    /// Drives sites to hold images, named by their ids. A site takes one image after the other;
    /// sites work side by side. The work goes on when nobody listens any more.
    ///
    /// # Errors
    /// 404 for an unknown site or image, 400 if there is nothing to do or too much at once.
    pub async fn preseed(
        &self,
        images: &[String],
        target: &Target,
    ) -> Result<Operation<PreseedReport, PreseedProgress>> {
        let request = self
            .client
            .request(Api::Admin, Method::POST, &["v1", "preseed"])
            .json(&target.request(images));
        Operation::start(self.client, request).await
    }

    /// What pulls of this site cost, at most `limit` of them, the newest first; of one image, named
    /// by its id, or of all.
    pub async fn receipts(&self, image: Option<&str>, limit: u32) -> Result<Vec<Receipt>> {
        let request = self
            .client
            .request(Api::Admin, Method::GET, &["v1", "receipts"])
            .query(&[("limit", limit)])
            .query(&image.map(|id| [("image", id)]));
        self.client.document(request).await
    }
}

/// Limits of both directions, as rates of IP packets such as `20Mbit/s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Most that is sent; none is no limit.
    pub send: Option<String>,
    /// Most that is received; none is no limit.
    pub receive: Option<String>,
}

/// What a site may send to others and receive from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of all other sites together.
    #[serde(flatten)]
    pub all: Limit,
    /// Of preseeds and repairs alone.
    #[serde(default)]
    pub background: Limit,
    /// Of single sites, by name.
    #[serde(default)]
    pub peers: BTreeMap<String, Limit>,
}

/// A site of the mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Site {
    /// Its name, unique in the mesh.
    pub name: String,
    /// Zone that it lies in, if it has one.
    pub zone: Option<String>,
    /// `host:port` where it says that other sites reach it.
    pub addresses: Vec<String>,
    /// Whether it is the site that was asked.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Whether it is up, as far as the site that was asked knows.
    pub up: bool,
    /// Images that it holds whole.
    pub images_held: u64,
    /// The connection to it, if there is one at present.
    pub link: Option<Link>,
}

/// A connection between the site that was asked and another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Round trip in milliseconds, smoothed.
    pub rtt_ms: f64,
    /// Smallest round trip seen lately, in milliseconds.
    pub rtt_min_ms: Option<f64>,
    /// Rate that the path was seen to carry towards the other site, in bytes per second.
    pub rate: Option<u64>,
    /// Payload received from the other site since the daemon started, in bytes after encoding.
    pub rx_bytes: u64,
    /// Payload sent to it, counted alike.
    pub tx_bytes: u64,
    /// Packets sent over this connection.
    pub packets_sent: u64,
    /// Those of them that were lost.
    pub packets_lost: u64,
    /// Their bytes: what was sent again.
    pub bytes_sent_twice: u64,
    /// `interactive` or `background`: what is sent at present is for such work.
    pub class: String,
    /// What the congestion controller is doing.
    pub state: Option<String>,
}

/// A site and what it holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteDetail {
    /// The site.
    #[serde(flatten)]
    pub site: Site,
    /// Images that it holds, whole or in part.
    pub images: Vec<HeldImage>,
}

/// An image at a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldImage {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Whether all of it is there.
    pub complete: bool,
}

/// Sites that a preseed drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every site that the asked one knows, itself too.
    All,
    /// These, by name.
    Sites(Vec<String>),
}

impl Target {
    fn request(&self, images: &[String]) -> Value {
        match self {
            Self::All => json!({"images": images, "all": true}),
            Self::Sites(names) => json!({"images": images, "sites": names}),
        }
    }
}

/// How far a site is with an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreseedProgress {
    /// Id of the image.
    pub image: String,
    /// Name of the site.
    pub site: String,
    /// Whether it is done.
    pub state: PreseedState,
    /// Bytes of data that are there.
    pub done_bytes: u64,
    /// Bytes of data of the image; 0 until the site knows it.
    pub total_bytes: u64,
    /// Why it failed, or had to be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// States of one image at one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreseedState {
    /// All bytes are there, durably. Final.
    Held,
    /// The site could not be brought to hold the image. Final.
    Failed,
    /// Neither yet; also what a newer daemon may call otherwise.
    #[serde(other)]
    Running,
}

/// How a preseed ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreseedReport {
    /// Whether every site holds every image, durably.
    pub ok: bool,
    /// The last word on each pair of site and image.
    pub sites: Vec<PreseedProgress>,
}

/// What a pull of a site cost. Bytes are those of the image, uncompressed, except where they are
/// called wire bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// Number of the pull at its site, since the daemon started.
    pub pull: u64,
    /// Id of the image, if the pull was for one.
    pub image: Option<String>,
    /// Id of the manifest, in hex.
    pub manifest: String,
    /// The site that pulled.
    pub site: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// How long it took.
    pub seconds: f64,
    /// Size of the image, holes included.
    pub image_bytes: u64,
    /// Bytes of it that are holes.
    pub hole_bytes: u64,
    /// Bytes that the site had already.
    pub local_bytes: u64,
    /// What came from other sites, by their names.
    pub peers: BTreeMap<String, PeerBytes>,
    /// How bytes were encoded on the wire.
    pub encoding: String,
    /// No pull could have been faster with the rates as they were seen; none if nothing was fetched.
    pub bound_seconds: Option<f64>,
    /// Sites whose links set that bound; none if it was the link of the pulling site.
    pub bottleneck: Vec<String>,
    /// Sites that were left, or not reached, and why: `NAME: reason`. The last 8.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// `complete`, or why it ended otherwise.
    pub outcome: String,
}

/// What came from one site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerBytes {
    /// Uncompressed.
    pub raw: u64,
    /// As received: payload after encoding, without what QUIC, UDP and IP add.
    pub wire: u64,
    /// How the path was on which it came, by the site that sent; none if that did not tell.
    #[serde(default)]
    pub path: Option<PathFigures>,
}

/// One direction of a connection during a pull, with all that was sent on it, as its sender saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathFigures {
    /// What the path was found to carry, in bytes per second.
    pub rate: Option<u64>,
    /// Round trip in milliseconds, smoothed.
    pub rtt_ms: Option<f64>,
    /// Smallest round trip seen lately, in milliseconds.
    pub rtt_min_ms: Option<f64>,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets lost.
    pub packets_lost: u64,
    /// Bytes in packets that were lost, and so sent again.
    pub bytes_sent_twice: u64,
    /// What the congestion controller did at the end.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_all_sites_or_named_ones() {
        let images = ["id-1".to_owned()];
        let all = json!({"images": ["id-1"], "all": true});
        assert_eq!(Target::All.request(&images), all);
        let named = json!({"images": ["id-1"], "sites": ["paris", "lyon"]});
        let target = Target::Sites(vec!["paris".to_owned(), "lyon".to_owned()]);
        assert_eq!(target.request(&images), named);
    }

    #[test]
    fn a_state_of_a_newer_daemon_counts_as_running() {
        let state = |name| serde_json::from_value::<PreseedState>(json!(name)).unwrap();
        assert_eq!(state("held"), PreseedState::Held);
        assert_eq!(state("failed"), PreseedState::Failed);
        assert_eq!(state("running"), PreseedState::Running);
        assert_eq!(state("queued"), PreseedState::Running);
    }
}
