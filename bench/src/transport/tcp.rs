//! Flows of the kernel's TCP, to share a link with and to race against.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rustix::net::sockopt::set_tcp_congestion;

use super::flow::{Sample, Track};
use super::lab::WideLab;

const BUFFER: usize = 256 * 1024;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// A TCP flow that sends as much as it may, until it is dropped.
pub(super) struct TcpFlow {
    sender: TcpStream,
    receiver: TcpStream,
    over: Arc<AtomicBool>,
    track: Arc<Mutex<Track>>,
    threads: Vec<JoinHandle<()>>,
}

impl TcpFlow {
    /// Connects two sites and begins to send under the kernel's congestion control of that name.
    pub(super) fn start(lab: &WideLab, from: &str, to: &str, controller: &str) -> Result<Self> {
        let network = lab.emulator.network();
        let (from, to) = (network.site(from)?, network.site(to)?);
        let listener = lab.emulator.run_in(to, || {
            TcpListener::bind(SocketAddr::new(to.addr().into(), 0))
        })??;
        let address = listener.local_addr()?;
        let accepting = thread::spawn(move || listener.accept());
        let sender = lab.emulator.run_in(from, || {
            TcpStream::connect_timeout(&address, Duration::from_secs(10))
        })??;
        set_tcp_congestion(&sender, controller)
            .with_context(|| format!("the kernel has no congestion control {controller}"))?;
        let (receiver, _) = accepting.join().expect("accepting does not panic")?;
        let received = lab.lab.flow()?;
        let over = Arc::new(AtomicBool::new(false));
        let track = Arc::<Mutex<Track>>::default();

        let mut writing = sender.try_clone()?;
        let mut reading = receiver.try_clone()?;
        let counting = received.clone();
        let sampling = (over.clone(), track.clone(), lab.lab.epoch);
        let threads = vec![
            thread::spawn(move || {
                let data = vec![7; BUFFER];
                while writing.write_all(&data).is_ok() {}
            }),
            thread::spawn(move || {
                let mut data = vec![0; BUFFER];
                while let Ok(len @ 1..) = reading.read(&mut data) {
                    counting.add(len as u64);
                }
            }),
            thread::spawn(move || {
                let (over, track, epoch) = sampling;
                while !over.load(Ordering::Relaxed) {
                    track.lock().0.push(Sample {
                        at: epoch.elapsed().as_secs_f64(),
                        received: received.bytes(),
                        ..Sample::default()
                    });
                    thread::sleep(SAMPLE_INTERVAL);
                }
            }),
        ];
        Ok(Self {
            sender,
            receiver,
            over,
            track,
            threads,
        })
    }

    /// What was seen so far.
    pub(super) fn track(&self) -> Track {
        self.track.lock().clone()
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for stream in [&self.sender, &self.receiver] {
            // One that is closed already is as good.
            stream.shutdown(Shutdown::Both).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("a flow's threads do not panic");
        }
    }
}
