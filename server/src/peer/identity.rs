//! Who a site is on the wire, and whom it believes.
//!
//! Certificates are read from files, and read again when the files change, so that they can be renewed without a
//! restart. Connections that exist keep theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use vitrail_proto::wire::ALPN;

use crate::config::PeerConfig;

/// The TLS side of both ends of a connection.
pub(super) struct Identity {
    /// Name of this site as its certificate says.
    pub(super) site: String,
    pub(super) server: Arc<QuicServerConfig>,
    pub(super) client: Arc<QuicClientConfig>,
    /// Sites that may connect; none means every site with a certificate.
    pub(super) allowed: Option<Vec<String>>,
}

/// Where the identity is read from.
#[derive(Debug, Clone)]
pub(super) struct Files {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    allowed: Option<PathBuf>,
}

impl Files {
    /// The files that the configuration names, if it names any.
    pub(super) fn of(config: &PeerConfig) -> anyhow::Result<Option<Self>> {
        match (&config.ca, &config.cert, &config.key) {
            (Some(ca), Some(cert), Some(key)) => Ok(Some(Self {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
                allowed: config.allowed_sites.clone(),
            })),
            (None, None, None) => Ok(None),
            _ => bail!("[peer] needs ca, cert and key together; `vitrail ca issue` writes them"),
        }
    }

    /// When any of the files last changed.
    pub(super) fn modified(&self) -> Vec<Option<std::time::SystemTime>> {
        [
            Some(&self.ca),
            Some(&self.cert),
            Some(&self.key),
            self.allowed.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
        .collect()
    }

    /// Reads and checks everything.
    pub(super) fn load(&self) -> anyhow::Result<Identity> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots
                .add(certificate)
                .with_context(|| format!("in {}", self.ca.display()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&self.cert)?;
        let site = site_name(chain.first().context("the certificate file is empty")?)
            .with_context(|| format!("in {}", self.cert.display()))?;
        let key = || {
            PrivateKeyDer::from_pem_file(&self.key)
                .with_context(|| format!("cannot read the key {}", self.key.display()))
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());

        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .context("the certificate and the key do not fit")?;
        server.alpn_protocols = vec![ALPN.to_vec()];

        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)?;
        client.alpn_protocols = vec![ALPN.to_vec()];

        let allowed = match &self.allowed {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let names = text.lines().map(str::trim);
                Some(
                    names
                        .filter(|n| !n.is_empty() && !n.starts_with('#'))
                        .map(Into::into)
                        .collect(),
                )
            }
        };
        Ok(Identity {
            site,
            server: Arc::new(QuicServerConfig::try_from(server)?),
            client: Arc::new(QuicClientConfig::try_from(client)?),
            allowed,
        })
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {}", path.display()))
}

/// The site that a certificate is for: its subject's common name. The chain was verified by TLS.
fn site_name(certificate: &CertificateDer<'_>) -> anyhow::Result<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let name = parsed
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    Ok(name
        .context("the certificate has no common name, which names the site")?
        .to_owned())
}

/// The site at the other end of a connection.
pub(super) fn peer_site(connection: &quinn::Connection) -> anyhow::Result<String> {
    let identity = connection
        .peer_identity()
        .context("the peer showed no certificate")?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| anyhow::anyhow!("the peer's identity is not a certificate"))?;
    site_name(
        chain
            .first()
            .context("the peer's certificate chain is empty")?,
    )
}
