//! Which sites are up: those that can be reached from here over links that up sites tell.

use std::collections::BTreeSet;

use super::entry::SiteNumber;
use super::state::{SiteLog, State};

/// The known sites to which there is a path from here, without our own. Time: the number of all links, times the
/// logarithm of that of sites.
pub(super) fn reachable(
    state: &State,
    own: SiteNumber,
    neighbours: impl Iterator<Item = SiteNumber>,
) -> BTreeSet<SiteNumber> {
    let sites: Vec<SiteLog<'_>> = state.sites().collect();
    let mut reached = vec![false; sites.len()];
    let mut open: Vec<SiteNumber> = neighbours.collect();
    while let Some(site) = open.pop() {
        if let Ok(at) = sites.binary_search_by_key(&site, |log| log.site)
            && site != own
            && !std::mem::replace(&mut reached[at], true)
        {
            open.extend(sites[at].links.iter().map(|link| link.site));
        }
    }
    let up = sites.iter().zip(reached).filter(|(_, reached)| *reached);
    up.map(|(log, _)| log.site).collect()
}
