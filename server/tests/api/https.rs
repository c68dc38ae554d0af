//! Does the Image API speak HTTPS, and with the certificate that is there now?

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use vitrail::ca;

use crate::site::Site;

/// A new authority's certificate for a site, in `directory`, and a client that believes only that authority.
fn certify(directory: &Path) -> Arc<ClientConfig> {
    let authority = TempDir::new().unwrap();
    ca::init(authority.path()).unwrap();
    ca::issue(authority.path(), "paris", 1).unwrap();
    for (from, to) in [("paris.crt", "api.crt"), ("paris.key", "api.key")] {
        std::fs::copy(authority.path().join(from), directory.join(to)).unwrap();
    }
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority.path().join("ca.crt")).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A session that is taken up again shows no certificate.
    client.resumption = rustls::client::Resumption::disabled();
    Arc::new(client)
}

/// The versions document over HTTPS; none if the certificate is not believed.
fn versions(site: &Site, client: &Arc<ClientConfig>) -> Option<String> {
    let name = ServerName::try_from(vitrail_proto::wire::PEER_DNS_NAME).unwrap();
    let connection = ClientConnection::new(client.clone(), name).unwrap();
    let stream = TcpStream::connect(site.api).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: images.example\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn start(directory: &Path) -> Site {
    Site::with(|config| {
        config.api.tls_cert = Some(directory.join("api.crt"));
        config.api.tls_key = Some(directory.join("api.key"));
    })
}

#[test]
fn clients_get_what_they_ask_for_over_tls() {
    let directory = TempDir::new().unwrap();
    let client = certify(directory.path());
    let site = start(directory.path());
    let answer = versions(&site, &client).expect("the certificate is believed");
    assert!(answer.starts_with("HTTP/1.1 300 "), "{answer}");
    assert!(answer.contains("https://images.example/v2/"), "{answer}");
    let endpoints = std::fs::read_to_string(site.data_dir().join("endpoints.json")).unwrap();
    assert!(endpoints.contains("\"https://127.0.0.1:"), "{endpoints}");
    // Plain HTTP gets nothing but an end.
    assert!(site.request("GET", "/").try_send().is_err());
    assert!(versions(&site, &client).is_some());
}

#[test]
fn a_new_certificate_is_taken_without_a_restart() {
    let directory = TempDir::new().unwrap();
    let old = certify(directory.path());
    let site = start(directory.path());
    assert!(versions(&site, &old).is_some());
    let new = certify(directory.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while versions(&site, &new).is_none() {
        assert!(
            Instant::now() < deadline,
            "the new certificate is not shown"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(versions(&site, &old).is_none());
}

#[test]
fn half_a_configuration_is_refused() {
    let mut config = vitraild::config::Config::default();
    let directory = TempDir::new().unwrap();
    config.site.data_dir = Some(directory.path().into());
    config.api.tls_cert = Some("/nowhere.crt".into());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = |config| runtime.block_on(vitraild::daemon::Daemon::start(config));
    let error = start(config.clone()).err().unwrap();
    assert!(error.to_string().contains("tls_key"), "{error:#}");
    config.api.tls_key = Some("/nowhere.key".into());
    let error = start(config).err().unwrap();
    assert!(format!("{error:#}").contains("/nowhere.crt"), "{error:#}");
}
