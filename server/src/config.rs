//! The daemon's configuration: a TOML file, and flags that win over it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::Deserialize;
use vitrail_proto::fetch::Policy;

use crate::limits::{Limits, Rate};

/// A number of bytes, written as `"256MiB"`, `"40GiB"` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            other => bail!(
                "unknown unit {other:?} in {text:?}; use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"
            ),
        };
        let number: u64 = number
            .parse()
            .with_context(|| format!("{text:?} is not a size such as \"256MiB\""))?;
        let bytes = number
            .checked_mul(unit)
            .with_context(|| format!("{text:?} is too large"))?;
        Ok(Self(bytes))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Everything that can be configured. Unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this site is.
    pub site: SiteConfig,
    /// The Image API.
    pub api: ApiConfig,
    /// The admin API, metrics and web page.
    pub admin: AdminConfig,
    /// Other sites.
    pub peer: PeerConfig,
    /// What may be sent to other sites and received from them.
    pub limits: Limits,
    /// Who may do what.
    pub auth: AuthConfig,
    /// The chunk store.
    pub store: StoreConfig,
    /// What images are accepted.
    pub images: ImagesConfig,
    /// Bytes that do not come as an upload.
    pub import: ImportConfig,
    /// How much projects may have.
    pub quotas: QuotasConfig,
    /// Logging.
    pub log: LogConfig,
    /// What only experiments change.
    pub experiment: ExperimentConfig,
}

/// `[site]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteConfig {
    /// Name of the site, unique in the mesh: 1 to 63 letters, digits, `-`, `_` or `.`. Default `local`.
    pub name: String,
    /// Sites of one zone are near each other. Default: none.
    pub zone: Option<String>,
    /// Where everything is kept. Required, here or as `--data-dir`.
    pub data_dir: Option<PathBuf>,
}

impl Default for SiteConfig {
    fn default() -> Self {
        Self {
            name: "local".into(),
            zone: None,
            data_dir: None,
        }
    }
}

/// `[api]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Address of the Image API. Default `127.0.0.1:9292`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// URL under which clients reach it, if that is not what they send as `Host`. Default: none.
    pub public_endpoint: Option<String>,
    /// Certificate chain (PEM) that makes the API speak HTTPS, with `tls_key`; read again when it changes. Default: none,
    /// plain HTTP.
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Connections served at once; more wait. Default 1024. Each costs up to 64 KiB of buffers, and a
    /// download up to 1 MiB besides.
    pub connections_max: usize,
    /// Seconds after which an upload is given up that brought less than 1 KiB for each of them, or a request head
    /// that is not complete, and a download of which the client took nothing. Default 60, at most 1 day.
    pub idle_timeout_s: u64,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9292)),
            public_endpoint: None,
            tls_cert: None,
            tls_key: None,
            connections_max: 1024,
            idle_timeout_s: 60,
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of the admin API. It has no authentication: keep it on loopback or a management network. Default
    /// `127.0.0.1:9294`.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9294)),
        }
    }
}

/// `[peer]`. Without certificates the site is alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerConfig {
    /// UDP address for other sites. Default `0.0.0.0:9293`.
    pub listen: SocketAddr,
    /// `host:port` under which other sites reach this one. Default: the address that they see it come from
    /// is not used, so set this wherever `listen` is not itself reachable.
    pub advertise: Option<String>,
    /// `host:port` of some other sites, for joining. One that answers is enough.
    pub seeds: Vec<String>,
    /// Certificate of the cluster's authority (PEM).
    pub ca: Option<PathBuf>,
    /// Certificate of this site (PEM).
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// A file with a site's name in each line: only these may connect. Read again when it changes; a
    /// site that is taken out is cut off. Default: every site with a certificate.
    pub allowed_sites: Option<PathBuf>,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 9293)),
            advertise: None,
            seeds: Vec::new(),
            ca: None,
            cert: None,
            key: None,
            allowed_sites: None,
        }
    }
}

/// How callers are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Every caller is the administrator: for a single trusted user.
    #[default]
    None,
    /// Callers have tokens of a Keystone.
    Keystone,
}

/// A text that logs do not show.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// `[auth]`. But for `policy_file` everything is about `mode = "keystone"`; what is not set of where to log in and
/// as whom is taken from the environment's `OS_AUTH_URL`, `OS_USERNAME` and so on.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// `none` (default) or `keystone`.
    pub mode: AuthMode,
    /// Rules that differ from the defaults. Default: none.
    pub policy_file: Option<PathBuf>,
    /// URLs of Keystone, one or several, at most 16.
    #[serde(deserialize_with = "one_or_several")]
    pub auth_url: Vec<String>,
    /// URL of the Keystone that clients without a token are told of. Default: the public one of `region_name` in the
    /// catalogue, or the first `auth_url`.
    pub www_authenticate_uri: Option<String>,
    /// The service's own user, with the role `service`.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Secret>,
    /// A file whose first line is the password, instead; read at each login.
    pub password_file: Option<PathBuf>,
    /// The project in which they have the role.
    pub project_name: Option<String>,
    /// Domain of the user. Default `Default`.
    pub user_domain_name: Option<String>,
    /// Domain of the project. Default `Default`.
    pub project_domain_name: Option<String>,
    /// Region of this site in the catalogue. Default: none.
    pub region_name: Option<String>,
    /// Authorities of Keystone's certificate (PEM). Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Seconds for one request to one URL. Default 5, 1 to 300.
    pub timeout_s: u64,
    /// Seconds for which an answer of Keystone counts, and for which a revoked token may go on. Default 60, at most
    /// 1 day; 0 asks every time.
    pub cache_s: u64,
    /// Seconds for which it still counts after that if Keystone does not answer. Default 0: not at all; at most 7 days.
    pub outage_grace_s: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::None,
            policy_file: None,
            auth_url: Vec::new(),
            www_authenticate_uri: None,
            username: None,
            password: None,
            password_file: None,
            project_name: None,
            user_domain_name: None,
            project_domain_name: None,
            region_name: None,
            ca_file: None,
            timeout_s: 5,
            cache_s: 60,
            outage_grace_s: 0,
        }
    }
}

fn one_or_several<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    })
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Most bytes of packs. Default: what the disk has.
    pub capacity: Option<ByteSize>,
    /// Ceiling for caches and buffers. Default 256 MiB; less than 64 MiB makes uploads wait for each other.
    pub memory: ByteSize,
    /// Bytes that stay free on the disk. Default 64 MiB.
    pub reserve: ByteSize,
    /// Compression level of stored chunks, 1 to 22. Default 3.
    pub zstd_level: i32,
    /// Seconds between a deletion and the collection of what it freed. Default 300.
    pub gc_delay_s: u64,
    /// Bytes of packs that a scrub reads in a second, such as `"20MB"`, which is the default: 12 hours for a TB. 0
    /// is as fast as the disk allows.
    pub scrub_rate: ByteSize,
    /// Seconds between the end of a scrub and the next one, which reads the whole store back and has what is damaged
    /// fetched from other sites. Default 604800, a week; 0 is never.
    pub scrub_period_s: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let defaults = vitrail_chunkstore::Options::default();
        Self {
            capacity: None,
            memory: ByteSize(defaults.memory),
            reserve: ByteSize(defaults.reserve),
            zstd_level: defaults.zstd_level,
            gc_delay_s: 300,
            scrub_rate: ByteSize(20_000_000),
            scrub_period_s: 7 * 24 * 3600,
        }
    }
}

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagesConfig {
    /// Largest image in bytes. Default 1 TiB.
    pub size_cap: ByteSize,
    /// Whether content must be of the declared disk format. Default true.
    pub require_format_match: bool,
    /// Whether documents have `locations`, one for each site that holds the image, and patches may add the URL of bytes
    /// to be taken over. Default false.
    pub show_multiple_locations: bool,
    /// Whether documents have `direct_url`, the first of the locations. Default false.
    pub show_direct_url: bool,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            size_cap: ByteSize(1 << 40),
            require_format_match: true,
            show_multiple_locations: false,
            show_direct_url: false,
        }
    }
}

/// How an import gets at the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportMethod {
    /// They were staged.
    GlanceDirect,
    /// They are read from a URL.
    WebDownload,
    /// The image has them; more sites shall.
    CopyImage,
}

impl ImportMethod {
    /// All, in the order in which they are listed.
    pub const ALL: [Self; 3] = [Self::GlanceDirect, Self::WebDownload, Self::CopyImage];

    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GlanceDirect => "glance-direct",
            Self::WebDownload => "web-download",
            Self::CopyImage => "copy-image",
        }
    }
}

/// `[import]`. What is denied is refused; of the rest, what is allowed is taken, and an empty list of what is allowed
/// allows everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportConfig {
    /// Methods that are offered. Default: all.
    pub methods: Vec<ImportMethod>,
    /// Most bytes that wait at this site to be imported. Default 100 GiB.
    pub staging_cap: ByteSize,
    /// Most seconds that a download may take. Default 6 hours.
    pub download_time_max_s: u64,
    /// Schemes of URLs; `http` and `https` are the only ones that are known. Default: both.
    pub allowed_schemes: Vec<String>,
    /// Default: none.
    pub denied_schemes: Vec<String>,
    /// Hosts of URLs, as they are written there. Default: all.
    pub allowed_hosts: Vec<String>,
    /// Default: none.
    pub denied_hosts: Vec<String>,
    /// Ports. Default 80 and 443.
    pub allowed_ports: Vec<u16>,
    /// Default: none.
    pub denied_ports: Vec<u16>,
    /// Whether hosts may have addresses that are not of the public Internet: loopback, private, link-local and the
    /// like. Anybody who may import could then read what only this site can reach. Default false.
    pub allow_private: bool,
}

impl ImportConfig {
    /// Whether a method is offered.
    pub fn offers(&self, method: ImportMethod) -> bool {
        self.methods.contains(&method)
    }
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            methods: ImportMethod::ALL.to_vec(),
            staging_cap: ByteSize(100 << 30),
            download_time_max_s: 6 * 3600,
            allowed_schemes: vec!["http".into(), "https".into()],
            denied_schemes: Vec::new(),
            allowed_hosts: Vec::new(),
            denied_hosts: Vec::new(),
            allowed_ports: vec![80, 443],
            denied_ports: Vec::new(),
            allow_private: false,
        }
    }
}

/// How much one project may have. What is not set is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaConfig {
    /// Images.
    pub image_count: Option<u64>,
    /// Bytes of all images with data.
    pub image_size: Option<ByteSize>,
    /// Bytes of images that are staged.
    pub staging_size: Option<ByteSize>,
    /// Images that are being uploaded, staged or imported.
    pub uploading_count: Option<u64>,
}

/// `[quotas]`: of each project.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotasConfig {
    /// Images.
    pub image_count: Option<u64>,
    /// Bytes of all images with data.
    pub image_size: Option<ByteSize>,
    /// Bytes of images that are staged.
    pub staging_size: Option<ByteSize>,
    /// Images that are being uploaded, staged or imported.
    pub uploading_count: Option<u64>,
    /// What differs for one project, by its id.
    pub project: std::collections::BTreeMap<String, QuotaConfig>,
}

impl QuotasConfig {
    /// The quotas of a project.
    pub fn of(&self, project: &str) -> QuotaConfig {
        let own = self.project.get(project).copied().unwrap_or_default();
        QuotaConfig {
            image_count: own.image_count.or(self.image_count),
            image_size: own.image_size.or(self.image_size),
            staging_size: own.staging_size.or(self.staging_size),
            uploading_count: own.uploading_count.or(self.uploading_count),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `text` (default) or `json`.
    pub format: LogFormat,
    /// Filter such as `info` (default) or `vitraild=debug`; the environment's `VITRAIL_LOG` wins.
    pub level: Option<String>,
}

/// `[experiment]`: not for production.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExperimentConfig {
    /// How pulls choose holders: `adaptive` (default), `random`, `nearest` or `static`.
    pub policy: PolicyName,
    /// Rates at which sites deliver to this one, by name, for the policy `static`.
    pub rates: BTreeMap<String, Rate>,
}

/// A scheduling policy by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Vitrail's own.
    #[default]
    Adaptive,
    /// Any holder.
    Random,
    /// The nearest holder.
    Nearest,
    /// Shares by rates that are known beforehand.
    Static,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Adaptive => Self::Adaptive,
            PolicyName::Random => Self::Random,
            PolicyName::Nearest => Self::Nearest,
            PolicyName::Static => Self::Static,
        }
    }
}

impl Config {
    /// Reads a file; errors name it, the line and the column.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Checks what types cannot.
    pub fn check(&self) -> anyhow::Result<()> {
        let name = &self.site.name;
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(legal) {
            bail!("[site] name {name:?}: use 1 to 63 letters, digits, '-', '_' or '.'");
        }
        if !(1..=22).contains(&self.store.zstd_level) {
            bail!("[store] zstd_level {}: use 1 to 22", self.store.zstd_level);
        }
        if !(1..=24 * 3600).contains(&self.api.idle_timeout_s) {
            bail!(
                "[api] idle_timeout_s {}: use 1 to 86400",
                self.api.idle_timeout_s
            );
        }
        for (key, value, range) in [
            ("timeout_s", self.auth.timeout_s, 1..=300),
            ("cache_s", self.auth.cache_s, 0..=24 * 3600),
            (
                "outage_grace_s",
                self.auth.outage_grace_s,
                0..=7 * 24 * 3600,
            ),
        ] {
            if !range.contains(&value) {
                bail!(
                    "[auth] {key} {value}: use {} to {}",
                    range.start(),
                    range.end()
                );
            }
        }
        self.limits.check().context("[limits]")?;
        if self.api.connections_max == 0 {
            bail!("[api] connections_max must be at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!("256MiB".parse::<ByteSize>().unwrap(), ByteSize(256 << 20));
        assert_eq!("40 GiB".parse::<ByteSize>().unwrap(), ByteSize(40 << 30));
        assert_eq!("7".parse::<ByteSize>().unwrap(), ByteSize(7));
        for bad in ["", "MiB", "1XB", "-1", "99999999999TiB", "1.5GiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_with_a_place() {
        let error = toml::from_str::<Config>("[store]\ncapicity = 5\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("capicity") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn examples_parse() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let mut seen = 0;
        for entry in std::fs::read_dir(examples).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                Config::load(&path).and_then(|c| c.check()).unwrap();
                seen += 1;
            }
        }
        assert!(seen > 0);
    }
}
