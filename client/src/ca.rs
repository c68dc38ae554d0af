//! The certificate authority of a mesh: files in a directory that its operator keeps.
//!
//! `ca.crt` goes to every site, `ca.key` to none. A site's certificate names it in its subject's common name and is
//! valid for the DNS name `vitrail-peer`, for both ends of a connection. Keys are ECDSA P-256.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde::Serialize;
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// The DNS name for which every site's certificate is valid.
const PEER_DNS_NAME: &str = "vitrail-peer";
/// Certificates are valid from some time ago on, for sites whose clock is late.
const BACKDATE: Duration = Duration::hours(1);

/// Validity of the authority's own certificate.
const CA_VALID_DAYS: u32 = 3650;

/// Validity of a site's certificate unless another is asked for.
pub const SITE_VALID_DAYS: u32 = 365;

/// Longest validity of a site's certificate: no longer than an authority's.
pub const SITE_VALID_DAYS_MAX: u32 = CA_VALID_DAYS;

/// Why a certificate was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaError {
    /// The name cannot be a site's.
    #[error("{name:?} cannot be the name of a site")]
    Name {
        /// What was asked for.
        name: String,
    },

    /// The validity is not between 1 and [`SITE_VALID_DAYS_MAX`] days.
    #[error("a certificate is valid for 1 to {SITE_VALID_DAYS_MAX} days, not {days}")]
    Validity {
        /// What was asked for.
        days: u32,
    },

    /// It would replace a file.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },

    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// The authority's files are not what [`init`] writes.
    #[error("the authority in {} cannot be used", directory.display())]
    Authority {
        /// Where it is kept.
        directory: PathBuf,
        /// What is wrong with it.
        source: rcgen::Error,
    },

    /// Making a key or a certificate failed.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Files {
    /// The certificate (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM), readable by its owner only.
    pub key: PathBuf,
}

/// Makes a new authority in `directory`, which is made too if it does not exist.
///
/// # Errors
/// [`CaError::Exists`] if there is one: its sites would not know the new one.
pub fn init(directory: &Path) -> Result<Files, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Vitrail mesh authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_VALID_DAYS);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    std::fs::create_dir_all(directory).map_err(file_error(directory))?;
    write_pair(directory, "ca", &certificate, &key)
}

/// Makes a certificate for `site` with the authority in `directory`, where it is written too.
///
/// # Errors
/// [`CaError::Name`] and [`CaError::Validity`]; [`CaError::Exists`] if the site has files already.
pub fn issue(directory: &Path, site: &str, valid_days: u32) -> Result<Files, CaError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // The authority's own files are named `ca`.
    if !(1..=63).contains(&site.len()) || !site.chars().all(legal) || site == "ca" {
        return Err(CaError::Name {
            name: site.to_owned(),
        });
    }
    if !(1..=SITE_VALID_DAYS_MAX).contains(&valid_days) {
        return Err(CaError::Validity { days: valid_days });
    }
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(file_error(&path))
    };
    let unusable = |source| CaError::Authority {
        directory: directory.to_owned(),
        source,
    };
    let ca_key = KeyPair::from_pem(&read("ca.key")?).map_err(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt")?, ca_key).map_err(unusable)?;

    let mut params = CertificateParams::new(vec![PEER_DNS_NAME.to_owned()])?;
    params.distinguished_name = common_name(site);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every site dials others and is dialled by them.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    set_validity(&mut params, valid_days);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write_pair(directory, site, &certificate, &key)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn set_validity(params: &mut CertificateParams, days: u32) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days.into());
}

/// Writes both files or, as far as the disk allows, none.
fn write_pair(
    directory: &Path,
    name: &str,
    certificate: &Certificate,
    key: &KeyPair,
) -> Result<Files, CaError> {
    let files = Files {
        certificate: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    };
    write_new(&files.certificate, &certificate.pem(), 0o644)?;
    write_new(&files.key, &key.serialize_pem(), 0o600).inspect_err(|_| {
        // Beside the key of another certificate, or of none, this one would only mislead.
        std::fs::remove_file(&files.certificate).ok();
    })?;
    Ok(files)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = opened.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists {
            path: path.to_owned(),
        },
        _ => file_error(path)(source),
    })?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(file_error(path))
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> CaError {
    move |source| CaError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn made() -> (TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let files = init(directory.path()).unwrap();
        (directory, files)
    }

    #[test]
    fn an_authority_issues_and_never_overwrites() {
        let (directory, authority) = made();
        let site = issue(directory.path(), "paris", 1).unwrap();
        for files in [&authority, &site] {
            let read = |path| fs::read_to_string(path).unwrap();
            assert!(read(&files.certificate).starts_with("-----BEGIN CERTIFICATE"));
            assert!(read(&files.key).starts_with("-----BEGIN PRIVATE KEY"));
            let mode = fs::metadata(&files.key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let is_there = |outcome| matches!(outcome, Err(CaError::Exists { .. }));
        assert!(is_there(init(directory.path())));
        assert!(is_there(issue(directory.path(), "paris", 1)));
    }

    #[test]
    fn a_lone_key_is_kept_and_gets_no_foreign_certificate() {
        let (directory, _) = made();
        fs::write(directory.path().join("paris.key"), "precious").unwrap();
        let outcome = issue(directory.path(), "paris", 1);
        assert!(matches!(outcome, Err(CaError::Exists { .. })));
        assert!(!directory.path().join("paris.crt").exists());
        let key = fs::read_to_string(directory.path().join("paris.key"));
        assert_eq!(key.unwrap(), "precious");
    }

    #[test]
    fn nothing_is_issued_without_an_authority() {
        let directory = tempfile::tempdir().unwrap();
        let outcome = issue(directory.path(), "paris", 1);
        assert!(matches!(outcome, Err(CaError::File { .. })));
        let (directory, authority) = made();
        fs::write(authority.key, "no key").unwrap();
        let outcome = issue(directory.path(), "paris", 1);
        assert!(matches!(outcome, Err(CaError::Authority { .. })));
    }

    #[test]
    fn names_and_validity_have_limits() {
        let (directory, _) = made();
        for name in ["", "ca", "../x", "a/b", "é", &"x".repeat(64)] {
            let outcome = issue(directory.path(), name, 1);
            assert!(matches!(outcome, Err(CaError::Name { .. })), "{name}");
        }
        for days in [0, SITE_VALID_DAYS_MAX + 1, u32::MAX] {
            let outcome = issue(directory.path(), "paris", days);
            assert!(matches!(outcome, Err(CaError::Validity { .. })), "{days}");
        }
        issue(directory.path(), &"x".repeat(63), SITE_VALID_DAYS_MAX).unwrap();
    }
}
