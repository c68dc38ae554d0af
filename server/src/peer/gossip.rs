//! stub
use super::*;
pub(super) struct Gossip;
impl Gossip {
    pub(super) fn new(_: &Config, _: String, _: &Store, _: Arc<Catalogue>) -> anyhow::Result<Self> { Ok(Self) }
    pub(super) fn is_neighbour(&self, _: u64) -> bool { false }
    pub(super) fn addresses(&self, _: &str) -> Option<Vec<String>> { None }
    pub(super) fn holders(&self, _: ManifestId, _: Option<&str>) -> Vec<Holder> { vec![] }
    pub(super) fn sites(&self) -> Vec<super::view::SiteView> { vec![] }
    pub(super) fn holds(&self, _: &str, _: ManifestId) -> Option<bool> { None }
}
impl Peers {
    pub(super) fn start_gossip(self: Arc<Self>, _: CancellationToken) {}
    pub(super) async fn accept_gossip(self: Arc<Self>, _: Arc<Link>, _: SendStream, _: RecvStream) -> Result<(), MessageError> { Ok(()) }
    pub(super) async fn holding_changed(&self, _: ManifestId) {}
}
