//! The thread that moves packets between the TUN devices and the [`Fabric`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::set_current_timer_slack;

use super::counters::{Count, Counters, Lateness, PairCounters, SiteCounters};
use super::emulator::Error;
use super::event::Event;
use super::fabric::Fabric;
use super::network::{NetworkError, SiteId};
use super::sleeper::Sleeper;
use super::sys;

/// Packets read from one device before the others have their turn.
const READ_BATCH: usize = 32;

/// Room for any IP packet.
const PACKET_MAX: usize = 65_536;

/// What the thread can be asked.
enum Request {
    Apply(Event, Sender<Result<(), NetworkError>>),
    Counters(Sender<Counters>),
    ArmEvents,
    Stop,
}

/// Handle of the thread; it ends on drop.
#[derive(Debug)]
pub(super) struct Driver {
    requests: Sender<Request>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    realtime: bool,
}

impl Driver {
    /// Starts moving packets. `tuns` are the devices of the network's sites in their order.
    pub(super) fn start(fabric: Fabric, tuns: Vec<File>) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            what: "start the emulator's thread".into(),
            source,
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let wake = Arc::new(wake);
        let start = Instant::now();
        let files = [wake.as_fd()]
            .into_iter()
            .chain(tuns.iter().map(File::as_fd));
        let sleeper = Sleeper::new(files, start).map_err(failed)?;
        let (requests, inbox) = mpsc::channel();
        let (ready, is_realtime) = mpsc::channel();
        let work = Work {
            fabric,
            tuns,
            inbox,
            wake: Arc::clone(&wake),
            start,
            events: VecDeque::new(),
            sleeper,
            refused: Count::default(),
            lateness: new_histogram(),
        };
        let thread = thread::Builder::new()
            .name("wan".into())
            .spawn(move || {
                let realtime = sys::make_realtime().is_ok();
                // Only those without a real-time priority have slack; without it, sleep longer.
                set_current_timer_slack(NonZeroU64::new(1)).ok();
                // The starter waits for it.
                ready.send(realtime).ok();
                work.run();
            })
            .map_err(failed)?;
        let realtime = is_realtime.recv().map_err(|_| Error::Stopped)?;
        Ok(Self {
            requests,
            wake,
            thread: Some(thread),
            realtime,
        })
    }

    /// Whether the thread has a real-time priority.
    pub(super) fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// Changes the network now.
    pub(super) fn apply(&self, event: Event) -> Result<(), Error> {
        Ok(self.ask(|reply| Request::Apply(event, reply))??)
    }

    /// Reads all counters at one moment.
    pub(super) fn counters(&self) -> Result<Counters, Error> {
        self.ask(Request::Counters)
    }

    /// The times of the topology's events count from now.
    pub(super) fn arm_events(&self) -> Result<(), Error> {
        self.request(Request::ArmEvents)
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = mpsc::channel();
        self.request(request(reply))?;
        answer.recv().map_err(|_| Error::Stopped)
    }

    fn request(&self, request: Request) -> Result<(), Error> {
        self.requests.send(request).map_err(|_| Error::Stopped)?;
        #[expect(
            clippy::host_endian_bytes,
            reason = "an eventfd takes a number of this machine"
        )]
        let one = 1_u64.to_ne_bytes();
        rustix::io::write(&self.wake, &one).map_err(|errno| Error::Io {
            what: "wake the emulator's thread".into(),
            source: errno.into(),
        })?;
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A thread that is gone already needs no request; its panic was printed when it happened.
        self.request(Request::Stop).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Work {
    fabric: Fabric,
    tuns: Vec<File>,
    inbox: Receiver<Request>,
    wake: Arc<OwnedFd>,
    start: Instant,
    /// Those that are still to come, times since `start`.
    events: VecDeque<(Duration, Event)>,
    /// Its file 0 is `wake`, the others are `tuns`.
    sleeper: Sleeper,
    refused: Count,
    lateness: Histogram<u64>,
}

impl Work {
    fn run(mut self) {
        let mut buffer = vec![0; PACKET_MAX];
        let mut readable = Vec::with_capacity(self.tuns.len() + 1);
        loop {
            let event = self.events.front().map(|&(at, _)| at);
            let due = self.fabric.next_due().into_iter().chain(event).min();
            self.sleeper.sleep(due, &mut readable);
            for &index in &readable {
                match index.checked_sub(1) {
                    Some(site) => self.read_batch(SiteId(site), &mut buffer),
                    None if self.serve() => {}
                    None => return,
                }
            }
            self.fire_events();
            self.fabric.advance(self.start.elapsed());
            self.deliver();
        }
    }

    /// Answers requests; `false` when it is time to stop.
    fn serve(&mut self) -> bool {
        let mut count = [0; 8];
        // Empty it; the count does not matter.
        rustix::io::read(&self.wake, &mut count).ok();
        while let Ok(request) = self.inbox.try_recv() {
            // Whoever no longer waits for an answer does not get one.
            match request {
                Request::Apply(event, reply) => {
                    self.fabric.advance(self.start.elapsed());
                    reply.send(self.fabric.apply(&event)).ok();
                }
                Request::Counters(reply) => {
                    reply.send(self.counters()).ok();
                }
                Request::ArmEvents => {
                    let armed = self.start.elapsed();
                    let events = self.fabric.network().events.iter();
                    self.events = events
                        .map(|(at, event)| (armed + *at, event.clone()))
                        .collect();
                }
                Request::Stop => return false,
            }
        }
        true
    }

    fn fire_events(&mut self) {
        while let Some((at, event)) = self
            .events
            .pop_front_if(|(at, _)| *at <= self.start.elapsed())
        {
            self.fabric.advance(at);
            // Checked when the topology was resolved.
            self.fabric
                .apply(&event)
                .expect("events of a resolved network fit it");
        }
    }

    fn read_batch(&mut self, site: SiteId, buffer: &mut [u8]) {
        for _ in 0..READ_BATCH {
            // Empty, or the device is down: in both cases there is nothing to carry.
            let Ok(len) = self.tuns[site.0].read(buffer) else {
                return;
            };
            self.fabric.advance(self.start.elapsed());
            self.fabric.send(site, buffer[..len].to_vec());
        }
    }

    fn deliver(&mut self) {
        while let Some((due, packet)) = self.fabric.poll_delivery() {
            if self.tuns[packet.to.0].write(&packet.bytes).is_err() {
                self.refused.add(packet.bytes.len());
            }
            let late = self.start.elapsed().saturating_sub(due);
            self.lateness
                .saturating_record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn counters(&self) -> Counters {
        let network = self.fabric.network();
        let name = |site: SiteId| network.sites[site.0].name.clone();
        let quantile = |q| Duration::from_nanos(self.lateness.value_at_quantile(q));
        Counters {
            at: self.start.elapsed(),
            sites: network
                .site_ids()
                .map(|site| SiteCounters {
                    site: name(site),
                    count: self.fabric.site_count(site),
                })
                .collect(),
            pairs: network
                .pairs()
                .map(|(from, to)| PairCounters {
                    from: name(from),
                    to: name(to),
                    count: self.fabric.pair_count(from, to),
                })
                .collect(),
            unroutable: self.fabric.unroutable(),
            overflow: self.fabric.overflow(),
            refused: self.refused,
            lateness: Lateness {
                p50: quantile(0.5),
                p99: quantile(0.99),
                max: Duration::from_nanos(self.lateness.max()),
            },
        }
    }
}

/// 1 µs to 10 s in steps of 1 %.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 10_000_000_000, 2).expect("constant bounds are valid")
}
