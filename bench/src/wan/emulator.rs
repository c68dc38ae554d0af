//! A network of namespaces that runs until it is dropped.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command};

use super::counters::Counters;
use super::driver::Driver;
use super::event::Event;
use super::fabric::Fabric;
use super::netns::{self, Namespace, Reaper};
use super::network::{ADDRESSES_MAX, Network, NetworkError, SiteId};
use super::sys;
use super::topology::Topology;

/// Why a network could not be emulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine, or this user on it, cannot emulate networks.
    #[error("no emulated network here: {0}")]
    Unavailable(String),
    /// The topology makes no network, or an event does not fit it.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// iproute2 failed.
    #[error("ip {args}: {detail}")]
    Ip {
        /// Its arguments.
        args: String,
        /// What it said.
        detail: String,
    },
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The emulator's thread has ended.
    #[error("the emulator's thread has ended")]
    Stopped,
}

/// The device of each site in its namespace.
pub(crate) const TUN: &str = "wan0";

/// The management device of each site in its namespace.
const MGMT: &str = "mgmt0";

/// Packets that the kernel may hold before the emulator reads them. Enough that queues fill where
/// the topology has them: the kernel's own 500 would drop the bursts of a window of 1 MB.
const TUN_QUEUE_LEN: u32 = 10_000;

/// Third octets of management networks, 10.77.N.0/24, one per running emulator.
const MGMT_NETS: std::ops::RangeInclusive<u8> = 200..=250;

/// Held while a management network is being chosen and set up.
const MGMT_LOCK: &str = "/run/vitrail-wan.lock";

/// A running network. Dropping it ends its thread and removes its namespaces, devices and every
/// process in them; so does the end of this process, also by a signal.
#[derive(Debug)]
pub struct Emulator {
    // Dropped in this order: no packets, then no namespaces, then no reaper.
    driver: Driver,
    namespaces: Vec<Namespace>,
    mgmt_net: Option<u8>,
    network: Network,
    _reaper: Reaper,
}

impl Emulator {
    /// Whether this machine and user can emulate networks, with the reason if not.
    pub fn available() -> Result<(), Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Unavailable(
                "namespaces and TUN devices need root".into(),
            ));
        }
        if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
            return Err(Error::Unavailable(format!("/dev/net/tun: {error}")));
        }
        netns::ip(&["-V"], "").map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// Makes the namespaces and carries packets between them from now on. Leftovers of dead
    /// emulators are removed first.
    pub fn start(topology: &Topology) -> Result<Self, Error> {
        Self::available()?;
        let network = topology.resolve()?;
        if network.sites.len() > ADDRESSES_MAX {
            return Err(NetworkError::NoAddresses(network.sites.len()).into());
        }
        netns::clean_stale()?;
        let names = netns::names(network.sites.iter().map(|site| site.name.as_str()))?;
        let reaper = Reaper::start(&names)?;

        let mut namespaces = Vec::with_capacity(names.len());
        let mut tuns = Vec::with_capacity(names.len());
        for (site, name) in network.site_ids().zip(&names) {
            let namespace = Namespace::create(name)?;
            tuns.push(set_up_site(&namespace, site, network.mtu)?);
            namespaces.push(namespace);
        }
        let mgmt_net = if network.mgmt {
            Some(set_up_mgmt(&namespaces)?)
        } else {
            None
        };
        let driver = Driver::start(Fabric::new(network.clone()), tuns)?;
        Ok(Self {
            driver,
            namespaces,
            mgmt_net,
            network,
            _reaper: reaper,
        })
    }

    /// What is emulated.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether packets are handed over by a thread with real-time priority.
    pub fn is_realtime(&self) -> bool {
        self.driver.is_realtime()
    }

    /// The site's address in the emulated network.
    pub fn addr(&self, site: &str) -> Result<Ipv4Addr, Error> {
        Ok(self.network.site(site)?.addr())
    }

    /// The site's address for the root namespace, past the emulated network: no delay, no limit,
    /// not counted. `None` when the topology has no `mgmt`.
    pub fn mgmt_addr(&self, site: &str) -> Result<Option<Ipv4Addr>, Error> {
        let site = self.network.site(site)?;
        Ok(self.mgmt_net.map(|net| mgmt_addr(net, site)))
    }

    /// The site's namespace, for `ip netns exec`.
    pub fn namespace(&self, site: &str) -> Result<&str, Error> {
        Ok(self.namespaces[self.network.site(site)?.0].name())
    }

    /// Starts a process at a site. It is killed with the network, if it still runs then.
    pub fn exec_in(&self, site: &str, command: Command) -> Result<Child, Error> {
        let program = command.get_program().to_owned();
        let namespace = &self.namespaces[self.network.site(site)?.0];
        namespace.spawn(command).map_err(|source| Error::Io {
            what: format!("start {} at {site}", program.display()),
            source,
        })
    }

    /// Runs `work` on a thread at a site; sockets that it makes stay there.
    pub fn run_in<T: Send>(
        &self,
        site: SiteId,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, Error> {
        self.namespaces[site.0]
            .run(work)
            .map_err(|source| Error::Io {
                what: "enter a namespace".into(),
                source,
            })
    }

    /// What was carried so far.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.driver.counters()
    }

    /// Changes the network now.
    pub fn apply(&self, event: Event) -> Result<(), Error> {
        self.driver.apply(event)
    }

    /// Lets the topology's events happen, with times that count from now.
    pub fn arm_events(&self) -> Result<(), Error> {
        self.driver.arm_events()
    }

    /// Removes everything; returns what was carried.
    pub fn stop(self) -> Result<Counters, Error> {
        self.counters()
    }
}

/// Makes the site's device, and gives it the site's address and all routes.
fn set_up_site(namespace: &Namespace, site: SiteId, mtu: u16) -> Result<File, Error> {
    let failed = |source| Error::Io {
        what: format!("make {TUN} in {}", namespace.name()),
        source,
    };
    let tun = namespace
        .run(|| {
            // Without it the kernel sends router solicitations, which are only noise in the
            // counters; where it cannot be written there is no IPv6.
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").ok();
            sys::open_tun(TUN)
        })
        .map_err(failed)?
        .map_err(failed)?;
    let addr = site.addr();
    namespace.ip_batch(&format!(
        "link set lo up\n\
         addr add {addr}/24 dev {TUN}\n\
         link set {TUN} mtu {mtu} txqueuelen {TUN_QUEUE_LEN} up\n\
         route add default dev {TUN}\n"
    ))?;
    Ok(tun)
}

/// Connects each site with the root namespace by a pair of veth devices, which go with the site's
/// namespace. Returns the third octet of their network.
fn set_up_mgmt(namespaces: &[Namespace]) -> Result<u8, Error> {
    let failed = |source| Error::Io {
        what: format!("lock {MGMT_LOCK}"),
        source,
    };
    let lock = File::create(MGMT_LOCK).map_err(failed)?;
    lock.lock().map_err(failed)?;

    // Who can bind to an address has it.
    let is_free = |net: &u8| UdpSocket::bind((root_addr(*net), 0)).is_err();
    let net = MGMT_NETS.rev().find(is_free).ok_or_else(|| {
        Error::Unavailable(format!(
            "all {} management networks are taken",
            MGMT_NETS.count()
        ))
    })?;

    let root = root_addr(net);
    let mut lines = String::new();
    for (site, namespace) in namespaces.iter().enumerate() {
        // At most 15 characters: process ids have up to 22 bits.
        let device = format!("wan{:x}.{net:x}{site:02x}", std::process::id());
        let (addr, name) = (mgmt_addr(net, SiteId(site)), namespace.name());
        write!(
            lines,
            "link add {device} type veth peer name {MGMT} netns {name}\n\
             addr add {root} peer {addr} dev {device}\n\
             link set {device} up\n"
        )
        .expect("writing to a string cannot fail");
    }
    netns::ip(&["-batch", "-"], &lines)?;
    for (site, namespace) in namespaces.iter().enumerate() {
        let addr = mgmt_addr(net, SiteId(site));
        namespace.ip_batch(&format!(
            "addr add {addr} peer {root} dev {MGMT}\nlink set {MGMT} up\n"
        ))?;
    }
    Ok(net)
}

fn root_addr(net: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, net, 1)
}

/// Sites count from 2; there are fewer than 254.
fn mgmt_addr(net: u8, site: SiteId) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, net, site.0 as u8 + 2)
}
