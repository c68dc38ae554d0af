//! The certificate authority of a mesh: files in a directory that its operator keeps.
//!
//! `ca.crt` goes to every site, `ca.key` to none. A site's certificate names it in its subject's common name and is
//! valid for the DNS name `vitrail-peer`, for both ends of a connection. Keys are ECDSA P-256.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// The DNS name for which every site's certificate is valid.
const PEER_DNS_NAME: &str = "vitrail-peer";
/// Certificates are valid from some time ago, for sites whose clock is late.
const BACKDATE: Duration = Duration::hours(1);
const CA_VALID: Duration = Duration::days(3650);
/// Validity of a site's certificate unless another is asked for.
pub const SITE_VALID_DAYS: u32 = 365;

/// Why a certificate was not made.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It would replace one that exists.
    #[error("{0} exists already; remove it first if it is to be replaced")]
    Exists(PathBuf),
    /// The name cannot be a site's.
    #[error("{0:?} is no name of a site: use 1 to 63 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// The authority's files are not what `init` writes.
    #[error("the authority in {0} cannot be used: {1}")]
    Authority(PathBuf, rcgen::Error),
    /// Making a key or certificate failed.
    #[error("making a certificate failed: {0}")]
    Make(#[from] rcgen::Error),
}

/// Files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The certificate (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM), readable by its owner only.
    pub key: PathBuf,
}

/// Makes a new authority in `directory`.
pub fn init(directory: &Path) -> Result<Written, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Vitrail mesh authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_VALID);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(directory, "ca", &certificate.pem(), &key.serialize_pem())
}

/// Makes a certificate for `site` with the authority in `directory`, which may be renewed under the same name.
pub fn issue(directory: &Path, site: &str, valid_days: u32) -> Result<Written, CaError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if site.is_empty() || site.len() > 63 || site == "ca" || !site.chars().all(legal) {
        return Err(CaError::Name(site.to_owned()));
    }
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(|source| CaError::File { path, source })
    };
    let unusable = |error| CaError::Authority(directory.to_owned(), error);
    let ca_key = KeyPair::from_pem(&read("ca.key")?).map_err(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt")?, ca_key).map_err(unusable)?;

    let mut params = CertificateParams::new(vec![PEER_DNS_NAME.to_owned()])?;
    params.distinguished_name = named(site);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    validity(&mut params, Duration::days(valid_days.into()));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write(directory, site, &certificate.pem(), &key.serialize_pem())
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn validity(params: &mut CertificateParams, length: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + length;
}

fn write(directory: &Path, name: &str, certificate: &str, key: &str) -> Result<Written, CaError> {
    let written = Written {
        certificate: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    };
    std::fs::create_dir_all(directory).map_err(|source| CaError::File {
        path: directory.to_owned(),
        source,
    })?;
    for (path, text, mode) in [
        (&written.key, key, 0o600),
        (&written.certificate, certificate, 0o644),
    ] {
        let made: io::Result<File> = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path);
        let result = made.and_then(|mut file| file.write_all(text.as_bytes()));
        result.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CaError::Exists(path.clone()),
            _ => CaError::File {
                path: path.clone(),
                source,
            },
        })?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_after_init_and_never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            issue(directory.path(), "paris", 1),
            Err(CaError::File { .. })
        ));
        let ca = init(directory.path()).unwrap();
        let site = issue(directory.path(), "paris", 1).unwrap();
        for path in [&ca.certificate, &ca.key, &site.certificate, &site.key] {
            assert!(
                std::fs::read_to_string(path)
                    .unwrap()
                    .starts_with("-----BEGIN")
            );
        }
        assert!(matches!(init(directory.path()), Err(CaError::Exists(_))));
        assert!(matches!(
            issue(directory.path(), "paris", 1),
            Err(CaError::Exists(_))
        ));
        assert!(matches!(
            issue(directory.path(), "../x", 1),
            Err(CaError::Name(_))
        ));
        assert!(matches!(
            issue(directory.path(), "ca", 1),
            Err(CaError::Name(_))
        ));
    }
}
