//! Several sites with real daemons on an emulated wide-area network.
//!
//! Each experiment starts a network of its own, so none sees what another left behind. Payload is
//! what daemons count in `vitrail_peer_rx_bytes_total`: frames after compression, without QUIC, UDP
//! and IP. Interface bytes are IP packets, as the emulator counts them.

mod burst;
mod finding;
mod first_byte;
mod flat;
mod goodput;
mod holders;
mod idle;
mod killed;
mod partition;
pub(crate) mod site;
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::peers::apt_install;
use crate::process::scratch_dir;
use crate::wan::{LinkSpec, Rate, Topology, parse_duration, parse_size};
use finding::Findings;
use site::Setup;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// Time to the first byte of an image that only another site has
    FirstByte,
    /// Bytes and time of a pull from one to four holders
    Holders,
    /// Many clients at one site want the same image at once
    Crowd,
    /// A holder, or the puller, is killed half-way
    Killed,
    /// 3,000 packets in a row are lost in the middle of a pull
    Burst,
    /// Writes and deletions on both sides of a cut, then the time until catalogues are equal
    Partition,
    /// Latency of list and show at round-trip times of 0, 100 and 300 ms
    Flat,
    /// Bytes that sites send and receive which do nothing
    Idle,
    /// Payload rate of a pull over a long path with loss, beside TCP
    Goodput,
}

/// Options of the experiments on several sites.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Experiments to run, one after the other [default: all]
    experiments: Vec<Experiment>,
    /// Directory of vitraild and vitrail [default: that of this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Random bytes in an image, such as 1GB [default: what suits the experiment]
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// Rate of the uplinks where they are to be the limit
    #[arg(long, default_value = "40Mbit/s")]
    uplink: Rate,
    /// Clients of the crowd
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// How long the partition lasts
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    cut: Duration,
    /// Numbers of sites that do nothing
    #[arg(long, value_delimiter = ',', default_value = "5,20", value_parser = clap::value_parser!(u16).range(2..=100))]
    sites: Vec<u16>,
    /// How long they are watched
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    idle: Duration,
    /// Repetitions of what takes little time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Scratch space [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Keep the sites' directories and logs
    #[arg(long)]
    keep: bool,
    /// Where raw.jsonl and REPORT.md go; what is there is added to
    #[arg(long, value_name = "DIR", default_value = "mesh-results")]
    results: PathBuf,
}

/// An image is in the memory of the experiment and of each of its clients' threads.
const SIZE_MAX: u64 = 4 << 30;

fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if !(1..=SIZE_MAX).contains(&bytes) {
        return Err("an image has from 1 B to 4 GiB".into());
    }
    Ok(bytes)
}

impl Options {
    fn image_len(&self, usual: u64) -> usize {
        self.size.unwrap_or(usual) as usize
    }
}

/// Runs the experiments and prints what they found.
pub fn run(options: &Options) -> Result<()> {
    let mut scratch = scratch_dir(options.scratch.as_deref())?;
    if options.keep {
        scratch.disable_cleanup(true);
        eprintln!("sites are kept in {}", scratch.path().display());
    }
    let programs = match &options.programs {
        Some(dir) => dir.clone(),
        None => {
            let own = std::env::current_exe()?;
            own.parent().context("this program lies nowhere")?.into()
        }
    };
    let mut findings = Findings::new(&options.results)?;
    let experiments = match &options.experiments[..] {
        [] => Experiment::value_variants(),
        named => named,
    };
    // Before anything is measured: a long run should not end for want of it.
    if experiments.contains(&Experiment::Goodput) {
        apt_install(&["iperf3"])?;
    }
    for (number, &experiment) in experiments.iter().enumerate() {
        let setup = Setup {
            programs: programs.clone(),
            dir: scratch.path().join(number.to_string()),
            policy: None,
        };
        match experiment {
            Experiment::FirstByte => first_byte::run(&setup, options, &mut findings),
            Experiment::Holders => holders::run(&setup, options, &mut findings),
            Experiment::Crowd => holders::crowd(&setup, options, &mut findings),
            Experiment::Killed => killed::run(&setup, options, &mut findings),
            Experiment::Burst => burst::run(&setup, options, &mut findings),
            Experiment::Partition => partition::run(&setup, options, &mut findings),
            Experiment::Flat => flat::run(&setup, options, &mut findings),
            Experiment::Idle => idle::run(&setup, options, &mut findings),
            Experiment::Goodput => goodput::run(&setup, options, &mut findings),
        }
        .with_context(|| format!("experiment {experiment:?}"))?;
        findings.write_report()?;
    }
    findings.print();
    Ok(())
}

/// `count` sites with one round-trip time and, if given, an uplink rate each.
fn uniform(count: u16, rtt: Duration, up: Option<Rate>) -> Topology {
    let link = LinkSpec {
        rtt: Some(rtt),
        ..LinkSpec::default()
    };
    let mut topology = Topology::uniform(count, link);
    for site in &mut topology.sites {
        site.up = up;
    }
    topology
}
