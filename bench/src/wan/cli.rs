//! `bench wan`: emulated networks from the command line.

use std::io::IsTerminal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::control::{self, Control};
use super::sys;
use super::{
    Counters, Emulator, LinkSpec, Rate, Topology, check, clean_stale, parse_duration, theory,
};

/// `bench wan ...`
#[derive(Subcommand)]
pub enum WanCommand {
    /// Start a network, run a command beside it, print what was carried, remove everything
    ///
    /// The command runs in the root namespace and finds in its environment, for each site with its
    /// name in capitals and _ for -: WAN_NS_SITE for `ip netns exec`, WAN_ADDR_SITE, with
    /// --mgmt WAN_MGMT_SITE; and WAN_SITES (all names) and WAN_CONTROL for `bench wan ctl`.
    /// The topology's events count from the start of the command.
    Run(RunArgs),
    /// Measure each round-trip time, rate and loss of a topology, and the emulator's ceiling
    ///
    /// Exit status 1 when a round-trip time or a rate is off by more than 5 %, a loss by more than
    /// 5 % and its sampling error, or when the traffic could exceed a quarter of the ceiling.
    Check(CheckArgs),
    /// Compare TCP over the emulator with theory (needs iperf3)
    Theory(TheoryArgs),
    /// Ask or change the network of a `run`: `counters`, or an event as JSON
    Ctl {
        /// `counters` or, for instance, {"kind":"site-down","site":"tokyo"}
        request: String,
        /// The socket of the run
        #[arg(long, env = "WAN_CONTROL")]
        socket: PathBuf,
    },
    /// Print a topology of N like sites
    Uniform(UniformArgs),
    /// Remove what networks of dead processes left behind
    Clean,
}

/// Which network.
#[derive(Args)]
pub struct TopologyArgs {
    /// TOML file (bench/topologies)
    topology: PathBuf,
    /// Multiply the rates further
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

impl TopologyArgs {
    fn load(&self) -> Result<Topology> {
        let mut topology = Topology::load(&self.topology)?;
        topology.scale *= self.scale;
        Ok(topology)
    }
}

/// Arguments of `run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    topology: TopologyArgs,
    /// Give the root namespace a way to each site, past the network
    #[arg(long)]
    mgmt: bool,
    /// Print the counters as JSON
    #[arg(long)]
    json: bool,
    /// What to run, with its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Arguments of `check`.
#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    topology: TopologyArgs,
    /// What the scenario carries at most [default: what the topology could carry]
    #[arg(long)]
    demand: Option<Rate>,
    /// Length of each probe
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    probe_time: Duration,
    /// Print every figure as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `theory`.
#[derive(Args)]
pub struct TheoryArgs {
    /// Rate of each path
    #[arg(long, default_value = "100Mbit/s")]
    rate: Rate,
    /// Round-trip time of each path
    #[arg(long, default_value = "50ms", value_parser = parse_duration)]
    rtt: Duration,
    /// Length of the flows after 5 s of warm-up
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    duration: Duration,
    /// Print every figure as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `uniform`.
#[derive(Args)]
pub struct UniformArgs {
    /// Number of sites
    #[arg(long)]
    sites: u16,
    /// Round-trip time between any two
    #[arg(long, value_parser = parse_duration)]
    rtt: Duration,
    /// Rate of each direction of each pair
    #[arg(long)]
    rate: Option<Rate>,
    /// Share of packets lost
    #[arg(long)]
    loss: Option<f64>,
}

/// Runs a subcommand.
pub fn run(command: WanCommand) -> Result<ExitCode> {
    match command {
        WanCommand::Run(args) => run_beside(&args),
        WanCommand::Check(args) => run_check(&args),
        WanCommand::Theory(args) => run_theory(&args),
        WanCommand::Ctl { request, socket } => {
            let answer = control::ask(&socket, &request)
                .with_context(|| format!("ask the network at {}", socket.display()))?;
            println!("{answer}");
            let refused = answer.starts_with(r#"{"error""#);
            Ok(if refused {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            })
        }
        WanCommand::Uniform(args) => {
            let UniformArgs {
                sites,
                rtt,
                rate,
                loss,
            } = args;
            let link = LinkSpec {
                rtt: Some(rtt),
                rate,
                loss,
                ..LinkSpec::default()
            };
            let topology = Topology::uniform(sites, link);
            topology.resolve()?;
            print!("{}", toml::to_string(&topology)?);
            Ok(ExitCode::SUCCESS)
        }
        WanCommand::Clean => {
            for name in clean_stale()? {
                println!("{name}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// How often a running command, its signals and its control socket are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How long an interrupted command may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

fn run_beside(args: &RunArgs) -> Result<ExitCode> {
    let mut topology = args.topology.load()?;
    topology.mgmt |= args.mgmt;
    let interrupts = interrupts()?;
    let emulator = Emulator::start(&topology)?;
    if !emulator.is_realtime() {
        eprintln!("warning: no real-time priority: packets may be late when the machine is busy");
    }
    let scratch = tempfile::tempdir().context("make a directory for the control socket")?;
    let socket = scratch.path().join("control");
    let control = Control::bind(&socket).context("make the control socket")?;

    let [program, arguments @ ..] = args.command.as_slice() else {
        bail!("no command")
    };
    let mut command = Command::new(program);
    command.args(arguments).env("WAN_CONTROL", &socket);
    export(&emulator, &mut command)?;
    let interactive = std::io::stdin().is_terminal();
    if !interactive {
        command.process_group(0);
    }
    sys::die_with_parent(&mut command);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {program}"))?;
    emulator.arm_events()?;
    let status = wait(&mut child, interactive, &interrupts, || {
        control.serve(&emulator)
    })?;

    let counters = emulator.stop()?;
    if args.json {
        eprintln!("{}", serde_json::to_string(&counters)?);
    } else {
        print_counters(&counters);
    }
    Ok(exit_code(status))
}

/// A message for each Ctrl-C or SIGTERM from now on.
fn interrupts() -> Result<Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    // Once nobody listens any more, all is being removed anyway.
    ctrlc::set_handler(move || sender.send(()).unwrap_or_default())
        .context("install the interrupt handler")?;
    Ok(receiver)
}

/// Waits for the end of the child. An interrupt becomes SIGTERM for it, and SIGKILL when it does
/// not end within 5 s.
///
/// At a terminal the child shares our group, so that it may read from there: Ctrl-C has reached
/// it already, and a shell that wants to go on after that is not killed.
fn wait(
    child: &mut Child,
    interactive: bool,
    interrupts: &Receiver<()>,
    mut tick: impl FnMut(),
) -> Result<ExitStatus> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("no child")?;
    let send = if interactive {
        kill_process
    } else {
        kill_process_group
    };
    // Who is gone already cannot be signalled, and need not.
    let signal = |signal| send(pid, signal).unwrap_or_default();
    let mut kill_at = None;
    loop {
        if let Some(status) = child.try_wait()? {
            if !interactive {
                // What the command left behind in its group.
                signal(Signal::KILL);
            }
            return Ok(status);
        }
        if interrupts.try_recv().is_ok() {
            signal(Signal::TERM);
            if !interactive {
                kill_at.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
            }
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            signal(Signal::KILL);
        }
        tick();
        thread::sleep(TICK);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn export(emulator: &Emulator, command: &mut Command) -> Result<()> {
    let mut sites = Vec::new();
    for site in &emulator.network().sites {
        let name = site.name.as_str();
        let suffix = name.to_uppercase().replace('-', "_");
        command.env(format!("WAN_NS_{suffix}"), emulator.namespace(name)?);
        command.env(
            format!("WAN_ADDR_{suffix}"),
            emulator.addr(name)?.to_string(),
        );
        if let Some(addr) = emulator.mgmt_addr(name)? {
            command.env(format!("WAN_MGMT_{suffix}"), addr.to_string());
        }
        sites.push(name);
    }
    command.env("WAN_SITES", sites.join(" "));
    Ok(())
}

fn print_counters(counters: &Counters) {
    eprintln!(
        "{:<32} {:>12} {:>12} {:>8} {:>8} {:>8}",
        "", "sent B", "came B", "lost", "full", "cut"
    );
    for pair in counters
        .pairs
        .iter()
        .filter(|pair| pair.count.sent.packets > 0)
    {
        let count = &pair.count;
        eprintln!(
            "{:<32} {:>12} {:>12} {:>8} {:>8} {:>8}",
            format!("{} -> {}", pair.from, pair.to),
            count.sent.bytes,
            count.delivered.bytes,
            count.lost.packets,
            count.dropped.packets,
            count.cut.packets
        );
    }
    print_lateness(&counters.lateness);
    let void = counters.overflow.packets + counters.refused.packets;
    if void > 0 {
        eprintln!("warning: the emulator itself lost {void} packets: the run is void");
    }
}

fn print_lateness(lateness: &super::Lateness) {
    let super::Lateness { p50, p99, max } = lateness;
    eprintln!("late by {p50:.0?} (p50), {p99:.0?} (p99), {max:.0?} (max)");
}

fn run_check(args: &CheckArgs) -> Result<ExitCode> {
    let topology = args.topology.load()?;
    let terminal = std::io::stderr().is_terminal();
    let report = check::check(&topology, args.demand, args.probe_time, |step| {
        if terminal {
            eprint!("\r\x1b[K{step}");
        }
    })?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_report(&report);
    }
    Ok(verdict(&report.faults()))
}

fn print_report(report: &check::Report) {
    println!("{}", report.name);
    for section in &report.sections {
        let worst = section.findings.iter().max_by(|a, b| {
            let share = |f: &check::Finding| f.off().abs() * f.wanted / f.allowed;
            share(a).total_cmp(&share(b))
        });
        let Some(worst) = worst else {
            println!("{:<5} nothing to measure", section.kind);
            continue;
        };
        println!(
            "{:<5} {:>4} measured; worst: {} {:.3} {unit} for {:.3} ± {:.3} {unit} ({:+.1} %)",
            section.kind,
            section.findings.len(),
            worst.subject,
            worst.measured.unwrap_or(f64::NAN),
            worst.wanted,
            worst.allowed,
            worst.off() * 100.0,
            unit = section.unit,
        );
    }
    let demand = report.demand.map_or("unlimited".into(), check::mbit);
    println!(
        "ceiling {}; the scenario may carry {demand}",
        check::mbit(report.ceiling)
    );
    let super::Lateness { p50, p99, max } = report.lateness;
    let priority = if report.realtime {
        "real-time"
    } else {
        "normal"
    };
    println!("late by {p50:.0?} (p50), {p99:.0?} (p99), {max:.0?} (max); {priority} priority");
}

fn run_theory(args: &TheoryArgs) -> Result<ExitCode> {
    let findings = theory::run(args.rate, args.rtt, args.duration)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        let theory::Findings {
            rate_mbit, rtt_ms, ..
        } = findings;
        println!("{rate_mbit} Mbit/s, {rtt_ms} ms; payload in Mbit/s");
        println!(
            "{:<8} {:>7} {:>9} {:>9} {:>8} {:>12}",
            "tcp", "loss %", "theory", "measured", "ratio", "retransmits"
        );
        for outcome in &findings.outcomes {
            let theory = outcome.predicted_mbit;
            println!(
                "{:<8} {:>7} {:>9} {:>9.2} {:>8} {:>12}",
                outcome.controller,
                outcome.loss * 100.0,
                theory.map_or("-".into(), |mbit| format!("{mbit:.2}")),
                outcome.measured_mbit,
                theory.map_or("-".into(), |mbit| format!(
                    "{:.3}",
                    outcome.measured_mbit / mbit
                )),
                outcome.retransmits,
            );
        }
        let rtts: Vec<_> = findings
            .measured_rtt_ms
            .iter()
            .map(|ms| format!("{ms:.2}"))
            .collect();
        println!("round-trip times: {} ms", rtts.join(", "));
        print_lateness(&findings.lateness);
    }
    Ok(verdict(&findings.faults()))
}

/// Prints what is wrong; success when nothing is.
fn verdict(faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("off: {fault}");
    }
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
