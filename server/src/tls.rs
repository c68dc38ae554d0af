//! HTTPS of the Image API: a certificate that is read again when its files change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::ApiConfig;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The certificate that new connections are shown.
pub(crate) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// The one that the configuration names, if it names one.
    ///
    /// # Errors
    /// Only one of the two files is named, or they cannot be used.
    pub(crate) fn of(config: &ApiConfig) -> anyhow::Result<Option<Arc<Self>>> {
        let (cert, key) = match (&config.tls_cert, &config.tls_key) {
            (None, None) => return Ok(None),
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            _ => bail!("[api] needs tls_cert and tls_key together"),
        };
        let current = RwLock::new(load(&cert, &key)?);
        Ok(Some(Arc::new(Self { cert, key, current })))
    }

    /// What makes connections TLS.
    pub(crate) fn acceptor(self: &Arc<Self>) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again whenever they change, until `stop`. Files that cannot be used change nothing.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.clone().modified().await;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let now = self.clone().modified().await;
            if now == seen {
                continue;
            }
            seen = now;
            let this = self.clone();
            let loaded = tokio::task::spawn_blocking(move || load(&this.cert, &this.key)).await;
            match loaded {
                Ok(Ok(key)) => {
                    *self.current.write() = key;
                    tracing::info!("the API's certificate was read again");
                }
                Ok(Err(error)) => tracing::error!(
                    error = format!("{error:#}"),
                    "the API's changed certificate cannot be used; the old one stays"
                ),
                Err(error) => tracing::error!(%error, "the API's certificate was not read"),
            }
        }
    }

    async fn modified(self: Arc<Self>) -> Option<[Option<SystemTime>; 2]> {
        let look = move || {
            [&self.cert, &self.key]
                .map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
        };
        tokio::task::spawn_blocking(look).await.ok()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

fn load(cert: &PathBuf, key: &PathBuf) -> anyhow::Result<Arc<CertifiedKey>> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("[api] tls_cert {}", cert.display()))?;
    if chain.is_empty() {
        bail!("[api] tls_cert {} has no certificate", cert.display());
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("[api] tls_key {}", key.display()))?;
    let certified = CertifiedKey::from_der(chain, private, &ring::default_provider())
        .context("[api] tls_cert and tls_key do not fit")?;
    Ok(Arc::new(certified))
}
