//! Who gets in, and who does not?

use std::time::Duration;

use serde_json::Value;
use vitrail::ca;
use vitraild::config::Config;
use vitraild::daemon::Daemon;

use crate::mesh::{Authority, Mesh, free_address, up_sites, wait, wait_for_image};
use crate::site::{Site, noise};

/// Long enough for a site that gets in to have been seen.
const SETTLED: Duration = Duration::from_secs(3);

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let mesh = Mesh::start(&["paris"]);
    let stranger = Authority::new();
    let address = free_address();
    let site = Site::with(|config| stranger.enroll(config, "lyon", address, mesh.seed));
    std::thread::sleep(SETTLED);
    assert_eq!(up_sites(&site), 1);
    assert_eq!(up_sites(&mesh.sites[0]), 1);
}

#[test]
fn an_expired_certificate_is_refused() {
    let mesh = Mesh::start(&["paris"]);
    issue_expired(&mesh.authority, "lyon");
    let address = free_address();
    let site = Site::with(|config| mesh.authority.enroll(config, "lyon", address, mesh.seed));
    std::thread::sleep(SETTLED);
    assert_eq!(up_sites(&site), 1);
    assert_eq!(up_sites(&mesh.sites[0]), 1);
}

/// A certificate that was valid until a minute ago.
fn issue_expired(authority: &Authority, site: &str) {
    let read = |name: &str| std::fs::read_to_string(authority.file(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt"), key).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["vitrail-peer".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, site);
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::minutes(30);
    params.not_after = now - time::Duration::minutes(1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(authority.file(&format!("{site}.crt")), certificate.pem()).unwrap();
    std::fs::write(authority.file(&format!("{site}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn a_site_that_is_taken_off_the_list_is_cut_off() {
    let mesh = Mesh::start(&["paris"]);
    let list = mesh.authority.file("allowed");
    std::fs::write(&list, "paris\nlyon\n# nice comes later\n").unwrap();
    let (address, seed) = (free_address(), mesh.seed);
    let lyon = Site::with(|config| {
        mesh.authority.enroll(config, "lyon", address, seed);
        config.peer.allowed_sites = Some(list.clone());
    });
    wait("paris is let in", || up_sites(&lyon) == 2);
    std::fs::write(&list, "lyon\n").unwrap();
    wait("paris is cut off", || up_sites(&lyon) == 1);
}

#[test]
fn a_site_with_another_name_than_its_certificate_does_not_start() {
    let authority = Authority::new();
    let directory = tempfile::TempDir::new().unwrap();
    let mut config = Config::default();
    config.api.listen = ([127, 0, 0, 1], 0).into();
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config.site.data_dir = Some(directory.path().to_owned());
    let address = free_address();
    authority.enroll(&mut config, "paris", address, address);
    config.site.name = "lyon".into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime
        .block_on(Daemon::start(config))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("paris") && error.contains("lyon"), "{error}");
}

#[test]
fn a_second_site_of_the_same_name_is_kept_out() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let address = free_address();
    let twin = Site::with(|config| mesh.authority.enroll(config, "paris", address, mesh.seed));
    std::thread::sleep(SETTLED);
    // Paris itself refuses it, and its own view holds nobody else.
    assert_eq!(up_sites(&twin), 1);
    assert_eq!(up_sites(&mesh.sites[1]), 2);
}

#[test]
fn of_two_sites_with_one_name_the_later_stays() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let before = paris.image(&noise(30, 100_000));
    wait_for_image(lyon, &before);
    let (address, seed) = (free_address(), lyon.config.peer.listen);
    let twin = Site::with(|config| mesh.authority.enroll(config, "paris", address, seed));
    wait("the earlier paris leaves", || up_sites(paris) == 1);
    let at_twin = |site: &Value| site["addresses"][0] == address.to_string();
    wait("lyon knows the later", || {
        let site = lyon.operator("GET", "/v1/sites/paris").send().expect(200);
        site.json()["up"] == true && at_twin(&site.json())
    });
    // The mesh goes on, with the later one and with what the earlier one had told it.
    let after = twin.image(&noise(31, 100_000));
    wait_for_image(lyon, &after);
    assert!(lyon.download(&after) == noise(31, 100_000));
    wait("the twin has the catalogue", || {
        twin.get(&format!("/v2/images/{before}")).status == 200
    });
    // And the earlier one goes on alone.
    assert!(paris.download(&before) == noise(30, 100_000));
    assert_eq!(paris.get(&format!("/v2/images/{after}")).status, 404);
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let mut mesh = Mesh::start(&["paris"]);
    for file in ["paris.crt", "paris.key"] {
        std::fs::remove_file(mesh.authority.file(file)).unwrap();
    }
    ca::issue(mesh.authority.path(), "paris", 2).unwrap();
    // The files are looked at every 5 seconds.
    std::thread::sleep(Duration::from_secs(6));
    mesh.join("lyon");
    wait("they meet", || up_sites(&mesh.sites[1]) == 2);
}
