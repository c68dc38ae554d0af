//! Fifty transfers to five sites under a limit that changes while they run.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vitraild::limits::Limits;

use super::Options;
use super::finding::{Findings, Goal, Key};
use super::flow::{Flow, OURS};
use super::lab::WideLab;
use super::paths::mbit;
use crate::wan::{LinkSpec, Topology};

const RECEIVERS: u16 = 5;
const TRANSFERS_PER_RECEIVER: usize = 10;
const SENDER: &str = "site-1";

/// After a change, the limit may take so long to hold.
const GRACE: Duration = Duration::from_secs(1);

/// Part `caps`.
pub(super) fn run(options: &Options, findings: &mut Findings) -> Result<()> {
    for (name, loss) in [("", 0.0), (", loss 1 %", 0.01)] {
        if options.wants(&format!("limit{name}")) {
            for _ in 0..options.repetitions() {
                under_limits(name, loss, options, findings)?;
            }
        }
    }
    Ok(())
}

fn under_limits(name: &str, loss: f64, options: &Options, findings: &mut Findings) -> Result<()> {
    let link = LinkSpec {
        rate: Some(mbit(100)?),
        rtt: Some(Duration::from_millis(50)),
        loss: Some(loss),
        ..LinkSpec::default()
    };
    let lab = WideLab::start(&Topology::uniform(1 + RECEIVERS, link))?;
    let sender = lab.host(SENDER)?;
    let mut receivers = Vec::new();
    let mut flows = Vec::new();
    let set = |mbit: u64| {
        let limits = Limits {
            send: Some(format!("{mbit}Mbit/s").parse()?),
            ..Limits::default()
        };
        sender.budget.set_limits(limits);
        anyhow::Ok(())
    };
    set(20)?;
    for number in 0..RECEIVERS {
        let receiver = lab.host(&format!("site-{}", number + 2))?;
        let flow = Flow::with_streams(&lab.lab, &sender, &receiver, OURS, TRANSFERS_PER_RECEIVER)?;
        receivers.push(receiver);
        flows.push(flow);
    }
    let sent = || {
        let counters = lab.counters()?;
        let site = counters.site(SENDER).context("no such site")?;
        Ok::<_, anyhow::Error>((Instant::now(), site.tx.bytes))
    };
    for (step, (mbit, time)) in [(20, 10), (40, 5), (10, 5)].into_iter().enumerate() {
        set(mbit)?;
        thread::sleep(GRACE);
        let before = sent()?;
        let received: Vec<u64> = flows.iter().map(Flow::received).collect();
        thread::sleep(options.time(time).max(Duration::from_secs(5)));
        let after = sent()?;
        let seconds = (after.0 - before.0).as_secs_f64();
        let rate = (after.1 - before.1) as f64 * 8.0 / seconds;
        let what = if step == 0 {
            "limit"
        } else {
            "limit changed to"
        };
        let case = format!("{what} {mbit} Mbit/s{name}");
        let key = |measure| Key {
            part: "caps",
            case: case.clone(),
            subject: "vitrail".into(),
            measure,
        };
        findings.add(
            key("bytes at the interface over the limit's"),
            Goal::Between(0.97, 1.03),
            rate / (mbit as f64 * 1e6),
        )?;
        let shares: Vec<u64> = flows
            .iter()
            .zip(received)
            .map(|(flow, before)| flow.received() - before)
            .collect();
        let (least, most) = (shares.iter().min(), shares.iter().max());
        let ratio = least
            .zip(most)
            .map(|(least, most)| *least as f64 / *most as f64);
        findings.add(
            key("least over most that a site got"),
            Goal::None,
            ratio.unwrap_or(f64::NAN),
        )?;
    }
    for flow in &flows {
        flow.track()?;
    }
    Ok(())
}
