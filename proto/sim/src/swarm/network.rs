//! Sites, their links, and the highest rate at which all of them can have an image.

use std::time::Duration;

/// A site and its links to all others together, in bytes per second of payload; infinite for no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Site {
    /// From the site.
    pub up: f64,
    /// To the site.
    pub down: f64,
    /// Sites of one zone are near each other.
    pub zone: Option<usize>,
}

/// The way from one site to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// One way.
    pub delay: Duration,
    /// What the way itself carries, in bytes per second of payload; infinite for no limit.
    pub rate: f64,
}

/// Sites and the ways between them.
#[derive(Debug, Clone)]
pub struct Network {
    pub(super) sites: Vec<Site>,
    /// By sender, then receiver.
    paths: Vec<Path>,
}

impl Network {
    /// A network of these sites; `path` says how the first of two sites sees the second.
    pub fn new(sites: Vec<Site>, path: impl Fn(usize, usize) -> Path) -> Self {
        let all = 0..sites.len();
        let from = |a: usize| all.clone().map(move |b| (a, b));
        let paths = all.clone().flat_map(from).map(|(a, b)| path(a, b));
        Self {
            paths: paths.collect(),
            sites,
        }
    }

    /// Sites of which all see each other with one round trip.
    pub fn uniform(sites: Vec<Site>, rtt: Duration) -> Self {
        let path = Path {
            delay: rtt / 2,
            rate: f64::INFINITY,
        };
        Self::new(sites, |_, _| path)
    }

    /// The way from one site to another.
    pub fn path(&self, from: usize, to: usize) -> Path {
        self.paths[from * self.sites.len() + to]
    }

    /// From one site to another and back.
    pub fn rtt(&self, a: usize, b: usize) -> Duration {
        self.path(a, b).delay + self.path(b, a).delay
    }

    /// How far the planner takes a site to be from another: 0 in the same zone.
    pub(super) fn distance(&self, a: usize, b: usize) -> u8 {
        let zone = self.sites[a].zone;
        u8::from(zone.is_none() || zone != self.sites[b].zone)
    }

    /// The most that a connection can carry.
    pub(super) fn connection_rate(&self, from: usize, to: usize) -> f64 {
        let ends = self.sites[from].up.min(self.sites[to].down);
        ends.min(self.path(from, to).rate)
    }

    /// No plan brings an image to each of `receivers` at a higher rate, in bytes per second: the origins together have to
    /// send it once, each receiver has to take it, and all uplinks together have to send every copy (Kumar and Ross,
    /// 2006). The limits of paths are left out.
    pub fn rate_most(&self, origins: &[usize], receivers: &[usize]) -> f64 {
        let up = |sites: &[usize]| -> f64 { sites.iter().map(|site| self.sites[*site].up).sum() };
        let down = receivers.iter().map(|site| self.sites[*site].down);
        let copies = (up(origins) + up(receivers)) / receivers.len() as f64;
        down.fold(up(origins).min(copies), f64::min)
    }
}
