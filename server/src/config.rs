//! The daemon's configuration: a TOML file, and flags that win over it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::limits::Limits;

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
    /// Logging.
    pub log: LogConfig,
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
    /// Connections served at once; more wait. Default 1024. Each costs up to 64 KiB of buffers, and a
    /// download up to 1 MiB besides.
    pub connections_max: usize,
    /// Seconds without a byte from the client after which an upload or a request head is given up, and
    /// without a byte taken by the client after which a download is. Default 60, at most 1 day.
    pub idle_timeout_s: u64,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9292)),
            public_endpoint: None,
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
}

/// `[auth]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// `none` is the only mode of this version.
    pub mode: AuthMode,
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
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            size_cap: ByteSize(1 << 40),
            require_format_match: true,
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
