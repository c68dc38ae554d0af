//! Is a damaged chunk fetched anew while its reader waits?

use crate::mesh::{Mesh, damage, wait_for_image};
use crate::site::noise;

#[test]
fn a_flipped_bit_costs_a_fetch_and_nobody_notices() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let image = noise(11, 4_000_000);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    assert!(mesh.sites[1].download(&id) == image);

    damage(&mut mesh.sites[1]);
    let lyon = &mesh.sites[1];
    assert!(lyon.download(&id) == image);
    assert!(lyon.store()["damaged_chunks"].as_u64().unwrap() > 0);
    // What was fetched is good, and the next reader finds it.
    assert!(lyon.download(&id) == image);
}
