//! The emulated network of one case, and processes at its sites.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::peers::Place;
use crate::process::{Process, run};
use crate::wan::{Emulator, TUN, Topology};

/// A running network with a directory for what its processes write.
#[derive(Debug)]
pub(super) struct Field {
    network: Arc<Emulator>,
    dir: PathBuf,
    /// One example of each command that was measured, by program.
    commands: Mutex<BTreeMap<String, String>>,
}

impl Field {
    /// Starts a network whose sites' TCP uses the congestion control `tcp`. `dir` must exist.
    pub(super) fn start(topology: &Topology, tcp: &str, dir: &Path) -> Result<Self> {
        let network = Emulator::start(topology)?;
        // The default of a namespace can only be set to what the root namespace allows everybody; a route's to anything.
        for site in &network.network().sites {
            let namespace = network.namespace(&site.name)?;
            let mut command = Command::new("ip");
            command
                .args(["-netns", namespace, "route", "change", "default"])
                .args(["dev", TUN, "congctl", tcp]);
            run("ip route", &mut command)?;
        }
        Ok(Self {
            network: Arc::new(network),
            dir: dir.to_owned(),
            commands: Mutex::default(),
        })
    }

    /// The network.
    pub(super) fn network(&self) -> &Arc<Emulator> {
        &self.network
    }

    /// Where processes write.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A site's address in the network.
    pub(super) fn addr(&self, site: &str) -> Result<Ipv4Addr> {
        Ok(self.network.addr(site)?)
    }

    /// A site as a place for servers.
    pub(super) fn place(&self, site: &str) -> Result<Place> {
        let reach = self.network.mgmt_addr(site)?;
        Ok(Place::namespace(
            self.network.namespace(site)?,
            reach.context("no management network")?,
        ))
    }

    /// A directory of a site, made on first use.
    pub(super) fn site_dir(&self, site: &str) -> Result<PathBuf> {
        let dir = self.dir.join(site);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Starts a server at a site; it is killed on drop.
    pub(super) fn serve(
        &self,
        site: &str,
        program: &str,
        fill: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        let mut command = self.place(site)?.command(program);
        fill(&mut command);
        Process::spawn(program, &mut command, &self.log(site))
    }

    /// Runs a command at a site to its end, and kills it after `timeout`.
    pub(super) fn run(
        &self,
        site: &str,
        program: &str,
        timeout: Duration,
        fill: impl FnOnce(&mut Command),
    ) -> Result<()> {
        let mut command = self.place(site)?.command(program);
        fill(&mut command);
        self.note(program, &command);
        let log = self.log(site);
        Process::spawn(program, &mut command, &log)?
            .finish(timeout)
            .with_context(|| tail(&log))
    }

    /// Keeps a measured command for the record, the first one of each program.
    pub(super) fn note(&self, program: &str, command: &Command) {
        let name = Path::new(program).file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if commands.contains_key(&*name) {
            return;
        }
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<_> = words
            .map(|word| self.shorten(&word.to_string_lossy()))
            // What comes before the program only enters the site.
            .skip_while(|word| !word.ends_with(program))
            .skip(1)
            .collect();
        commands.insert(name.to_string(), format!("{name} {}", line.join(" ")));
    }

    /// The commands that were noted.
    pub(super) fn commands(&self) -> Vec<String> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.values().cloned().collect()
    }

    /// The one of `holders` with the shortest round-trip time to `site`.
    pub(super) fn nearest<'a>(&self, site: &str, holders: &'a [String]) -> Result<&'a str> {
        let network = self.network.network();
        let to = network.site(site)?;
        let mut nearest = None;
        for holder in holders {
            let rtt = network.rtt(network.site(holder)?, to);
            if nearest.is_none_or(|(least, _)| rtt < least) {
                nearest = Some((rtt, holder));
            }
        }
        Ok(nearest.context("no holders")?.1)
    }

    fn log(&self, site: &str) -> PathBuf {
        self.dir.join(format!("{site}.log"))
    }

    /// Paths of this run mean nothing to a reader.
    fn shorten(&self, word: &str) -> String {
        word.replace(&*self.dir.to_string_lossy(), "DIR")
    }
}

/// The end of a log, for a message.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(600)..]).into_owned();
    text.trim().to_owned()
}
