//! What operators see of the mesh.

use serde::Serialize;

use super::Peers;

/// A site.
#[derive(Debug, Clone, Serialize)]
pub struct SiteView {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Where it says that it is reached.
    pub addresses: Vec<String>,
    /// Whether it is this one.
    #[serde(rename = "self")]
    pub own: bool,
    /// Whether it is up, as far as this site knows.
    pub up: bool,
    /// Images that it holds whole.
    pub images_held: usize,
    /// The connection to it, if there is one.
    pub link: Option<LinkView>,
}

/// A connection.
#[derive(Debug, Clone, Serialize)]
pub struct LinkView {
    /// Round trip in milliseconds, smoothed.
    pub rtt_ms: f64,
    /// Smallest round trip seen lately, in milliseconds.
    pub rtt_min_ms: Option<f64>,
    /// Rate that the path was seen to carry from here, in bytes per second.
    pub rate: Option<u64>,
    /// Payload received from and sent to the site since the daemon started, after encoding.
    pub rx_bytes: u64,
    /// As above.
    pub tx_bytes: u64,
    /// Packets sent and lost.
    pub packets_sent: u64,
    /// As above.
    pub packets_lost: u64,
    /// Bytes in packets that were lost, and so sent again.
    pub bytes_sent_twice: u64,
    /// `interactive` or `background`: what is sent on it at present is for such work.
    pub class: &'static str,
    /// What the congestion controller is doing.
    pub state: Option<&'static str>,
}

/// A site and what it holds.
#[derive(Debug, Clone, Serialize)]
pub struct SiteDetail {
    /// The site.
    #[serde(flatten)]
    pub site: SiteView,
    /// Images that it holds.
    pub images: Vec<HeldImage>,
}

/// An image at a site.
#[derive(Debug, Clone, Serialize)]
pub struct HeldImage {
    /// Its id.
    pub id: uuid::Uuid,
    /// Its name.
    pub name: Option<String>,
    /// Whether all of it is there.
    pub complete: bool,
}

impl Peers {
    /// Every site that is known, by name.
    pub fn sites(&self) -> Vec<SiteView> {
        let mut sites = self.gossip.sites();
        for site in &mut sites {
            site.own = site.name == self.site;
            site.link = self.link_view(&site.name);
        }
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        sites
    }

    /// Names of all sites that are known, in order.
    pub fn site_names(&self) -> Vec<String> {
        let mut names = self.gossip.site_names();
        names.sort();
        names
    }

    /// A site by name.
    pub fn site(&self, name: &str) -> Option<SiteDetail> {
        let site = self.sites().into_iter().find(|site| site.name == name)?;
        let images = self
            .catalogue
            .images()
            .iter()
            .filter_map(|image| {
                let manifest = image.data.as_ref()?.manifest;
                let complete = self.gossip.holds(name, manifest)?;
                Some(HeldImage {
                    id: image.id,
                    name: image.name.clone(),
                    complete,
                })
            })
            .collect();
        Some(SiteDetail { site, images })
    }

    fn link_view(&self, site: &str) -> Option<LinkView> {
        let link = self.links.get(vitrail_proto::clock::site_number(site))?;
        let path = link.path();
        let stats = link.connection.stats().path;
        Some(LinkView {
            rtt_ms: link.rtt().as_secs_f64() * 1000.0,
            rtt_min_ms: path
                .as_ref()
                .and_then(|p| p.min_rtt)
                .map(|t| t.as_secs_f64() * 1000.0),
            rate: path.as_ref().map(|p| p.rate).filter(|rate| *rate > 0),
            rx_bytes: link.rx_bytes.get(),
            tx_bytes: link.tx_bytes.get(),
            packets_sent: stats.sent_packets,
            packets_lost: stats.lost_packets,
            bytes_sent_twice: stats.lost_bytes,
            class: link.class().name(),
            state: path.as_ref().map(|p| p.state.name()),
        })
    }
}
