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
mod killed;
mod partition;
mod site;
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::process::scratch_dir;
use crate::wan::{LinkSpec, Rate, Topology, parse_duration};
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
    /// Payload rate of a pull over a long path with loss, beside TCP
    Goodput,
}

/// Options of the experiments on several sites.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Experiments to run, one after the other
    #[arg(required = true)]
    experiments: Vec<Experiment>,
    /// Directory of vitraild and vitrail [default: that of this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// MiB of random bytes in an image
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Rate of the uplinks where they are to be the limit
    #[arg(long, default_value = "20Mbit/s")]
    uplink: Rate,
    /// Clients of the crowd
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// How long the partition lasts
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    cut: Duration,
    /// Repetitions of what takes little time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Scratch space [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Keep the sites' directories and logs
    #[arg(long)]
    keep: bool,
    /// Append one JSON line for each measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    fn image_len(&self) -> usize {
        self.size as usize * 1024 * 1024
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
    let mut findings = Findings::new(options.json.as_deref())?;
    for (number, &experiment) in options.experiments.iter().enumerate() {
        let setup = Setup {
            programs: programs.clone(),
            dir: scratch.path().join(number.to_string()),
        };
        match experiment {
            Experiment::FirstByte => first_byte::run(&setup, options, &mut findings),
            Experiment::Holders => holders::run(&setup, options, &mut findings),
            Experiment::Crowd => holders::crowd(&setup, options, &mut findings),
            Experiment::Killed => killed::run(&setup, options, &mut findings),
            Experiment::Burst => burst::run(&setup, options, &mut findings),
            Experiment::Partition => partition::run(&setup, options, &mut findings),
            Experiment::Flat => flat::run(&setup, options, &mut findings),
            Experiment::Goodput => goodput::run(&setup, options, &mut findings),
        }
        .with_context(|| format!("experiment {experiment:?}"))?;
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
