//! Whether the sites have ended where they should. Every check panics with the site and what is wrong there.

use std::collections::BTreeMap;

use vitrail_proto::gossip::Holding;
use vitrail_proto::id::ManifestId;

use crate::mesh::{Mesh, number};
use crate::network::Node;

/// Every running site has every record as the merge of all writes that were ever made. So all are equal, nothing that
/// was written is lost, and nothing that was deleted is back.
pub fn catalogues(mesh: &Mesh) {
    for node in mesh.running() {
        let site = &mesh.sites[node];
        for (id, truth) in &mesh.truth {
            assert_eq!(
                site.records.0.get(id),
                Some(truth),
                "{} at {}",
                id,
                site.name
            );
        }
        assert_eq!(site.records.0.len(), mesh.truth.len(), "at {}", site.name);
    }
}

/// Every running site knows what every running site holds, and nothing else of them.
pub fn holdings(mesh: &Mesh) {
    let running = mesh.running();
    for at in &running {
        for of in &running {
            let told = holdings_at(mesh, *at, *of);
            assert_eq!(told, mesh.sites[*of].holdings, "{of} as known at {at}");
        }
    }
}

/// What a site is known to hold at another.
pub fn holdings_at(mesh: &Mesh, at: Node, of: Node) -> BTreeMap<ManifestId, Holding> {
    let gossip = mesh.sites[at].gossip.as_ref();
    gossip.map_or_else(BTreeMap::new, |gossip| gossip.holdings(number(of)))
}

/// Running sites are up for one another, and the others are not.
pub fn who_is_up(mesh: &Mesh) {
    let running = mesh.running();
    for at in &running {
        let Some(gossip) = &mesh.sites[*at].gossip else {
            continue;
        };
        for of in 0..mesh.sites.len() {
            let up = gossip.is_up(number(of));
            assert_eq!(up, running.contains(&of), "{of} as seen at {at}");
        }
    }
}

/// Every running site keeps equally much, of the order of what there is: nothing is left behind.
pub fn memory(mesh: &Mesh) {
    let running = mesh.running();
    let entries: usize = running
        .iter()
        .map(|node| mesh.sites[*node].holdings.len() + 2)
        .sum();
    for node in running {
        let bytes = mesh.sites[node].gossip.as_ref().map_or(0, |g| g.memory());
        // Removed holdings are remembered, and sites that are off too.
        let most = 600 * (entries + 20 * mesh.sites.len());
        assert!(bytes < most, "{bytes} bytes at {node}, {most} expected");
    }
}

/// Everything above.
pub fn all(mesh: &Mesh) {
    catalogues(mesh);
    holdings(mesh);
    who_is_up(mesh);
    memory(mesh);
}
