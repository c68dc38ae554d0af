//! Which sites are up: those that can be reached from here over links that up sites tell.

use std::collections::BTreeSet;

use super::entry::SiteNumber;
use super::state::State;

/// The sites to which there is a path from here, without our own.
pub(super) fn reachable(
    state: &State,
    own: SiteNumber,
    neighbours: impl Iterator<Item = SiteNumber>,
) -> BTreeSet<SiteNumber> {
    let mut reached: BTreeSet<SiteNumber> = neighbours.collect();
    let mut open: Vec<SiteNumber> = reached.iter().copied().collect();
    while let Some(site) = open.pop() {
        let links = state.site(site).map_or(&[][..], |log| log.links);
        for link in links {
            if link.site != own && reached.insert(link.site) {
                open.push(link.site);
            }
        }
    }
    reached
}
