//! Does a store behave as a map from ids to bytes, whatever is done to it in whatever order?

use proptest::prelude::*;
use vitrail_chunkstore::Ingest;
use vitrail_proto::id::ManifestId;

use crate::support::disk::FaultyDisk;
use crate::support::images::any_image;
use crate::support::{Site, assert_no_orphans, ingest, options, read_all, verified};

#[derive(Debug, Clone)]
enum Operation {
    Add(Vec<u8>),
    Abandon(Vec<u8>),
    Delete(prop::sample::Index),
    Collect,
    Reopen,
    /// Off and on again; what was not synced is gone or torn.
    PowerCut(u64),
    /// A byte flips, verify looks, and what it misses is stored again.
    Damage(prop::sample::Index, prop::sample::Index),
    Read(prop::sample::Index),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        4 => any_image().prop_map(Add),
        1 => any_image().prop_map(Abandon),
        2 => any::<prop::sample::Index>().prop_map(Delete),
        2 => Just(Collect),
        1 => Just(Reopen),
        1 => any::<u64>().prop_map(PowerCut),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Damage(a, b)),
        2 => any::<prop::sample::Index>().prop_map(Read),
    ]
}

fn pick(site: &Site, index: &prop::sample::Index) -> Option<ManifestId> {
    let ids: Vec<_> = site.images.keys().copied().collect();
    (!ids.is_empty()).then(|| *index.get(&ids))
}

fn run(site: &mut Site, disk: &FaultyDisk, operation: Operation) {
    match operation {
        Operation::Add(image) => {
            let id = site.add(image);
            assert!(read_all(site.store(), id).unwrap() == site.images[&id]);
        }
        Operation::Abandon(image) => {
            let mut ingest = Ingest::begin(site.store()).unwrap();
            ingest.push(&image).unwrap();
        }
        Operation::Delete(index) => {
            if let Some(id) = pick(site, &index) {
                site.images.remove(&id);
            }
        }
        Operation::Collect => {
            site.collect();
            assert_no_orphans(site.store(), &site.roots());
        }
        Operation::Reopen => site.reopen_after(|_| {}),
        Operation::PowerCut(seed) => site.reopen_after(|_| disk.power_cycle(seed)),
        Operation::Damage(pack, at) => {
            let packs = disk.packs();
            if !packs.is_empty() {
                disk.edit(*pack.get(&packs), |bytes| {
                    let at = at.index(bytes.len());
                    bytes[at] ^= 0x10;
                });
            }
            verified(site.store());
            for (id, image) in &site.images {
                assert_eq!(ingest(site.store(), image).unwrap(), *id);
            }
        }
        Operation::Read(index) => {
            if let Some(id) = pick(site, &index) {
                assert!(read_all(site.store(), id).unwrap() == site.images[&id]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_operations(operations in proptest::collection::vec(operation(), 1..25)) {
        let disk = FaultyDisk::default();
        let mut site = Site::on(&disk, options());
        for operation in operations {
            run(&mut site, &disk, operation);
        }
        site.assert_clean();
        site.reopen_after(|_| disk.power_cycle(1));
        site.assert_clean();
    }
}
