//! The daemon's transport on emulated paths, beside TCP and QUIC's usual congestion controllers.
//!
//! What sends is the daemon's own code: its QUIC configuration, congestion controller and paced
//! socket, between two endpoints of this process at two sites of an emulated network. Goodput is
//! payload as the receiver reads it, divided by the rate of the link in IP bits; so headers alone
//! leave 0.958 of it. `bench/docs/TRANSPORT.md` explains every case.

mod caps;
mod company;
mod cpu;
mod curves;
mod finding;
mod flow;
mod lab;
mod paths;
mod tcp;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use finding::Findings;

/// A group of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// 100 Mbit/s, 100 ms: goodput and bytes sent twice at random losses from 0 to 3 %
    Loss,
    /// What of the payload gets through that theory allows at 50 ms
    Theory,
    /// Goodput at 60 combinations of rate, round trip and loss
    Grid,
    /// The first 10 MB of a new connection
    Cold,
    /// Round trips with a deep queue, goodput with a shallow one and behind a policer
    Queue,
    /// The link halves, doubles, is gone for a while
    Steps,
    /// Two flows share a link: ours, TCP's, background
    Company,
    /// Fifty transfers to five sites under a limit that changes
    Caps,
    /// What it costs on loopback
    Cpu,
}

/// Options of the transport's experiments.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Parts to run [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
    /// Runs of each case of Vitrail's; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Runs of each case of the others
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    peer_repetitions: u32,
    /// Cases whose name contains this text
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// One run of each, and shorter ones: for a first look
    #[arg(long)]
    quick: bool,
    /// Where results are kept
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    results: PathBuf,
}

impl Options {
    fn repetitions(&self) -> u32 {
        if self.quick { 1 } else { self.repetitions }
    }

    /// A time of a case, half of it for a first look.
    fn time(&self, seconds: u64) -> Duration {
        let time = Duration::from_secs(seconds);
        if self.quick { time / 2 } else { time }
    }

    fn wants(&self, case: &str) -> bool {
        self.case.as_ref().is_none_or(|text| case.contains(text))
    }
}

/// Runs the parts one after the other and writes the report.
pub fn run(options: &Options) -> Result<()> {
    let all = Part::value_variants();
    let parts = if options.only.is_empty() {
        all
    } else {
        &options.only
    };
    let mut findings = Findings::begin(&options.results)?;
    for part in parts {
        eprintln!("{part:?}");
        match part {
            Part::Loss => paths::loss(options, &mut findings),
            Part::Theory => paths::theory(options, &mut findings),
            Part::Grid => paths::grid(options, &mut findings),
            Part::Cold => paths::cold(options, &mut findings),
            Part::Queue => paths::queue(options, &mut findings),
            Part::Steps => paths::steps(options, &mut findings),
            Part::Company => company::run(options, &mut findings),
            Part::Caps => caps::run(options, &mut findings),
            Part::Cpu => cpu::run(options, &mut findings),
        }
        .with_context(|| format!("part {part:?}"))?;
    }
    findings.publish()
}
