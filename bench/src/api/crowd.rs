//! Several clients at once: how many requests a server answers in a second, and in a second of its CPU time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::subject::{Subject, Users, Who};
use crate::image_api::Request;
use crate::journal::{Better, Measure, Unit};
use crate::local::Run;

const CLIENTS: usize = 8;
const PERIOD: Duration = Duration::from_secs(4);

struct Crowd {
    rate: Measure,
    per_cpu: Measure,
    request: fn(&[String], usize) -> Request,
}

macro_rules! crowd {
    ($key:literal, $title:literal, $request:expr) => {
        Crowd {
            rate: Measure {
                key: concat!("api.crowd.", $key),
                title: concat!("eight clients at once, ", $title),
                unit: Unit::PerSecond,
                better: Better::More,
            },
            per_cpu: Measure {
                key: concat!("api.crowd.", $key, ".per_cpu"),
                title: concat!(
                    "eight clients at once, ",
                    $title,
                    ", per CPU second of the server"
                ),
                unit: Unit::PerSecond,
                better: Better::More,
            },
            request: $request,
        }
    };
}

static CROWDS: [Crowd; 2] = [
    crowd!("list", "list of 25", |_, _| Request::get(
        "/v2/images?limit=25"
    )),
    crowd!("show", "show", |ids, number| {
        Request::get(format!("/v2/images/{}", ids[number % ids.len()]))
    }),
];

pub(super) fn run(run: &mut Run, users: &Users<'_>, subjects: &[Subject<'_>]) -> Result<()> {
    for crowd in &CROWDS {
        for subject in subjects {
            eprintln!("api: {} on {}", crowd.rate.key, subject.name);
            // What the kinds before left.
            let ids = subject.images();
            let ids = &ids[300..500.min(ids.len())];
            let before = subject.cpu()?.server;
            let start = Instant::now();
            let answered: usize = thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|client| {
                        scope.spawn(move || -> Result<usize> {
                            let mut count = 0;
                            while start.elapsed() < PERIOD {
                                let request = (crowd.request)(ids, client * 1000 + count);
                                let answer = subject.api.ask(&request, users.token(Who::Member))?;
                                ensure!(answer.status == 200, "{}", answer.describe());
                                count += 1;
                            }
                            Ok(count)
                        })
                    })
                    .collect();
                clients
                    .into_iter()
                    .map(|client| client.join().expect("a client does not panic"))
                    .sum::<Result<usize>>()
            })?;
            let wall = start.elapsed().as_secs_f64();
            let cpu = (subject.cpu()?.server - before).as_secs_f64();
            let journal = &mut run.journal;
            journal.value(&crowd.rate, subject.name, answered as f64 / wall)?;
            journal.value(&crowd.per_cpu, subject.name, answered as f64 / cpu)?;
        }
    }
    Ok(())
}
