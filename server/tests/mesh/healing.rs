//! Is a damaged chunk fetched anew while its reader waits?

use std::os::unix::fs::FileExt;

use crate::mesh::{Mesh, wait_for_image};
use crate::site::noise;

#[test]
fn a_flipped_bit_costs_a_fetch_and_nobody_notices() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let image = noise(11, 4_000_000);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    assert!(mesh.sites[1].download(&id) == image);

    mesh.sites[1].restart(|data_dir| {
        let mut flipped = 0;
        for entry in std::fs::read_dir(data_dir.join("packs")).unwrap() {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(entry.unwrap().path());
            let file = file.unwrap();
            let middle = file.metadata().unwrap().len() / 2;
            let mut byte = [0];
            file.read_exact_at(&mut byte, middle).unwrap();
            byte[0] ^= 0x10;
            file.write_all_at(&byte, middle).unwrap();
            flipped += 1;
        }
        assert!(flipped > 0);
    });
    let lyon = &mesh.sites[1];
    assert!(lyon.download(&id) == image);
    assert!(lyon.store()["damaged_chunks"].as_u64().unwrap() > 0);
    // What was fetched is good, and the next reader finds it.
    assert!(lyon.download(&id) == image);
}
