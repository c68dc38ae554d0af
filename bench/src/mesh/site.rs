//! Daemons at the sites of an emulated network.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::finding::check_network;
use crate::image_api::{ImageApi, agent};
use crate::wan::{Counters, Emulator, Network, Topology};

const API_PORT: u16 = 9292;
const PEER_PORT: u16 = 9293;
const ADMIN_PORT: u16 = 9294;

/// For what takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a mesh is made from.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Directory of vitraild and vitrail.
    pub(crate) programs: PathBuf,
    /// Where its sites keep everything.
    pub(crate) dir: PathBuf,
    /// How its sites choose holders, by the daemon's name of the policy, if not in their own way.
    pub(crate) policy: Option<&'static str>,
}

/// One daemon at each site of a network.
#[derive(Debug)]
pub(crate) struct Mesh {
    // Before the network, whose end kills its processes.
    sites: BTreeMap<String, Site>,
    pub(crate) network: Arc<Emulator>,
}

/// A site's daemon.
#[derive(Debug)]
pub(crate) struct Site {
    name: String,
    dir: PathBuf,
    vitraild: PathBuf,
    api: ImageApi,
    admin: String,
    daemon: Option<Child>,
}

impl Mesh {
    /// Starts the network and a daemon at each site, and waits until all sites see all others.
    /// `case` names the directory, below that of the setup.
    pub(crate) fn start(setup: &Setup, case: &str, mut topology: Topology) -> Result<Self> {
        topology.mgmt = true;
        Self::deploy(setup, case, Arc::new(Emulator::start(&topology)?))
    }

    /// [`Self::start`] on a network that runs and has a management network.
    pub(crate) fn deploy(setup: &Setup, case: &str, network: Arc<Emulator>) -> Result<Self> {
        let dir = setup.dir.join(case);
        let certificates = dir.join("ca");
        let vitrail = setup.programs.join("vitrail");
        fs::create_dir_all(&certificates)?;
        authority(&vitrail, &["init"], &certificates)?;

        let mut sites = BTreeMap::new();
        let seed = network.network().sites[0].name.clone();
        let seed = format!("{}:{PEER_PORT}", network.addr(&seed)?);
        for spec in &network.network().sites {
            let name = &spec.name;
            authority(&vitrail, &["issue", name], &certificates)?;
            let data = dir.join(name);
            fs::create_dir_all(&data)?;
            let own = format!("{}:{PEER_PORT}", network.addr(name)?);
            let config = config(
                name,
                spec.zone.as_deref(),
                &data,
                &certificates,
                &own,
                &seed,
            );
            let config = match setup.policy {
                Some(policy) => config + &experiment(policy, name, network.network()),
                None => config,
            };
            fs::write(data.join("config.toml"), config)?;
            let mgmt = network.mgmt_addr(name)?.context("no management network")?;
            let mut site = Site {
                name: name.clone(),
                dir: data,
                vitraild: setup.programs.join("vitraild"),
                api: ImageApi::new(format!("http://{mgmt}:{API_PORT}"), true),
                admin: format!("http://{mgmt}:{ADMIN_PORT}"),
                daemon: None,
            };
            site.start(&network)?;
            sites.insert(name.clone(), site);
        }
        let mesh = Self { sites, network };
        for site in mesh.sites.values() {
            site.wait_for_sites(mesh.sites.len())?;
        }
        Ok(mesh)
    }

    /// A site of the topology.
    pub(crate) fn site(&self, name: &str) -> Result<&Site> {
        self.sites
            .get(name)
            .with_context(|| format!("no site {name}"))
    }

    /// All sites, by name.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// SIGKILL to a site's daemon.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        self.site_mut(name)?.kill();
        Ok(())
    }

    /// Starts a killed daemon again, and waits until it sees all sites.
    pub(crate) fn restart(&mut self, name: &str) -> Result<()> {
        let count = self.sites.len();
        let site = self
            .sites
            .get_mut(name)
            .with_context(|| format!("no site {name}"))?;
        site.start(&self.network)?;
        site.wait_for_sites(count)
    }

    fn site_mut(&mut self, name: &str) -> Result<&mut Site> {
        self.sites
            .get_mut(name)
            .with_context(|| format!("no site {name}"))
    }

    /// What the network has carried; fails when that is void.
    pub(crate) fn counters(&self) -> Result<Counters> {
        let counters = self.network.counters()?;
        check_network(&counters)?;
        Ok(counters)
    }

    /// IP bytes that have come to a site.
    pub(crate) fn interface_rx(&self, name: &str) -> Result<u64> {
        let counters = self.counters()?;
        let site = counters.site(name).context("no such site")?;
        Ok(site.rx.bytes)
    }
}

impl Site {
    /// Its name in the topology.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its admin API, past the emulated network.
    pub(crate) fn admin_url(&self) -> &str {
        &self.admin
    }

    /// Its Image API, past the emulated network.
    pub(crate) fn api(&self) -> &ImageApi {
        &self.api
    }

    /// Uploads `bytes` as a new raw image; returns its id.
    pub(crate) fn push(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let record = self.api.create(&json!({
            "name": name, "disk_format": "raw", "container_format": "bare",
        }))?;
        let id = record["id"].as_str().context("no id")?.to_owned();
        agent(false)
            .put(self.api.file_url(&id))
            .content_type("application/octet-stream")
            .send(bytes)
            .with_context(|| format!("upload to {}", self.name))?;
        Ok(id)
    }

    /// Removes an image everywhere.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        let url = format!("{}/v2/images/{id}", self.api.url());
        agent(false).delete(url).call().context("delete")?;
        Ok(())
    }

    /// Id, name and status of all images, in order of id. At most 1,000.
    pub(crate) fn catalogue(&self) -> Result<Vec<[String; 3]>> {
        let page = self.api.get("/v2/images?limit=1000")?;
        let images = page["images"].as_array().context("no list")?;
        let text = |image: &Value, key: &str| image[key].as_str().unwrap_or_default().to_owned();
        let mut rows: Vec<_> = images
            .iter()
            .map(|image| ["id", "name", "status"].map(|key| text(image, key)))
            .collect();
        rows.sort();
        Ok(rows)
    }

    /// Waits until the image is listed as active here with the SHA-512 of `bytes`, and each of
    /// `holders` is known here to hold it.
    pub(crate) fn wait_for_image(&self, id: &str, bytes: &[u8], holders: &[&str]) -> Result<()> {
        self.wait_for_holders(id, holders)?;
        let record = self.api.get(&format!("/v2/images/{id}"))?;
        let digest: String = Sha512::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ensure!(record["os_hash_value"] == digest, "wrong SHA-512: {record}");
        Ok(())
    }

    /// Waits until the image is listed as active here, and each of `holders` is known here to hold it.
    pub(crate) fn wait_for_holders(&self, id: &str, holders: &[&str]) -> Result<()> {
        let active = |row: &[String; 3]| row[0] == id && row[2] == "active";
        wait_until(&format!("{} to list image {id}", self.name), || {
            Ok(self.catalogue()?.iter().any(active))
        })?;
        for holder in holders {
            let held = |image: &Value| image["id"] == id && image["complete"] == true;
            wait_until(&format!("{} to know {holder} as holder", self.name), || {
                let site = self.admin(&format!("/v1/sites/{holder}"))?;
                Ok(site["images"]
                    .as_array()
                    .is_some_and(|images| images.iter().any(held)))
            })?;
        }
        Ok(())
    }

    /// Payload received from all peers since the daemon started, in bytes.
    pub(crate) fn payload_rx(&self) -> Result<u64> {
        self.metric("vitrail_peer_rx_bytes_total{")
    }

    /// Payload sent to all peers since the daemon started, in bytes.
    pub(crate) fn payload_tx(&self) -> Result<u64> {
        self.metric("vitrail_peer_tx_bytes_total{")
    }

    /// The receipt of the newest pull of an image. A client may have its last byte before the pull ends.
    pub(crate) fn receipt(&self, id: &str) -> Result<Value> {
        let mut receipt = Value::Null;
        wait_until(&format!("a receipt of {id} at {}", self.name), || {
            let mut receipts = self.admin(&format!("/v1/receipts?image={id}&limit=1"))?;
            receipt = receipts.get_mut(0).map_or(Value::Null, Value::take);
            Ok(!receipt.is_null())
        })?;
        Ok(receipt)
    }

    /// The sum over all labels.
    fn metric(&self, prefix: &str) -> Result<u64> {
        let text = get(&format!("{}/metrics", self.admin))?;
        let mut sum = 0;
        for line in text.lines().filter(|line| line.starts_with(prefix)) {
            let value = line.rsplit(' ').next().unwrap_or_default();
            sum += value.parse::<f64>().with_context(|| line.to_owned())? as u64;
        }
        Ok(sum)
    }

    fn admin(&self, path: &str) -> Result<Value> {
        let text = get(&format!("{}{path}", self.admin))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn start(&mut self, network: &Emulator) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let mut command = Command::new(&self.vitraild);
        command
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.daemon = Some(network.exec_in(&self.name, command)?);
        let ready = format!("{}/readyz", self.admin);
        wait_until(&format!("{} to be ready", self.name), || {
            if let Some(status) = self.daemon.as_mut().and_then(|d| d.try_wait().transpose()) {
                bail!("its daemon ended at start: {}", status?);
            }
            Ok(get(&ready).is_ok())
        })
    }

    fn wait_for_sites(&self, count: usize) -> Result<()> {
        wait_until(&format!("{} to see {count} sites", self.name), || {
            let sites = self.admin("/v1/sites")?;
            let up = |site: &&Value| site["up"] == true;
            Ok(sites
                .as_array()
                .is_some_and(|sites| sites.iter().filter(up).count() == count))
        })
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Dead already is as good.
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `condition` holds; fails when it cannot be had, or after a minute.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if condition().with_context(|| format!("wait for {what}"))? {
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL);
    }
    bail!("waited {} s for {what}", PATIENCE.as_secs());
}

fn get(url: &str) -> Result<String> {
    Ok(agent(false).get(url).call()?.into_body().read_to_string()?)
}

fn authority(vitrail: &Path, args: &[&str], dir: &Path) -> Result<()> {
    let output = Command::new(vitrail)
        .arg("ca")
        .args(args)
        .arg("--dir")
        .arg(dir)
        .output()
        .with_context(|| format!("start {}", vitrail.display()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vitrail ca {args:?}: {stderr}");
    Ok(())
}

fn config(
    name: &str,
    zone: Option<&str>,
    data: &Path,
    certificates: &Path,
    own: &str,
    seed: &str,
) -> String {
    let zone = zone.map(|zone| format!("zone = {zone:?}\n"));
    let (data, certificates) = (data.join("data"), certificates.display());
    format!(
        "[site]\nname = {name:?}\n{}data_dir = {data:?}\n\
         [api]\nlisten = \"0.0.0.0:{API_PORT}\"\n\
         [admin]\nlisten = \"0.0.0.0:{ADMIN_PORT}\"\n\
         [peer]\nlisten = \"0.0.0.0:{PEER_PORT}\"\nadvertise = {own:?}\nseeds = [{seed:?}]\n\
         ca = \"{certificates}/ca.crt\"\ncert = \"{certificates}/{name}.crt\"\n\
         key = \"{certificates}/{name}.key\"\n",
        zone.unwrap_or_default(),
    )
}

/// The part of a configuration that sets a policy, and tells it the rates of the paths to a site.
fn experiment(policy: &str, site: &str, network: &Network) -> String {
    let mut text = format!("[experiment]\npolicy = {policy:?}\n[experiment.rates]\n");
    for (from, to) in network.pairs() {
        let (from_name, to_name) = (&network.sites[from.0].name, &network.sites[to.0].name);
        if let Some(rate) = network.path_rate(from, to).filter(|_| to_name == site) {
            text += &format!("{from_name:?} = \"{}bit/s\"\n", rate.as_bits_per_sec());
        }
    }
    text
}
