//! The Image API of a cloud with a thousand images: latency of every kind of request, and what it costs the
//! server in CPU time, beside real Glance on SQLite and on MariaDB. One real Keystone says of all three's callers
//! who they are.

mod crowd;
mod kinds;
mod subject;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::local::{Options, Run};
use crate::machine::version;
use crate::peers::glance::{Glance, PACKAGES, Setup};
use crate::peers::keystone::Keystone;
use crate::peers::mariadb::MariaDb;
use crate::peers::vitrail::Vitrail;
use crate::peers::{Cache, Place, free_port};
use crate::report::{self, VITRAIL};
use kinds::{GROUPS, Kind};
use subject::{Subject, Users};

/// Images of the catalogue; making them is the first kind of request.
const IMAGES: usize = 1000;
/// Requests to one server before it is the next one's turn.
const IN_TURN: usize = 50;

const SQLITE: &str = "glance, SQLite";
const MARIADB: &str = "glance, MariaDB";

/// Options of this experiment.
#[derive(Args, Clone, Debug)]
pub struct ApiOptions {
    #[command(flatten)]
    options: Options,
    /// Requests of each kind to each server; a few kinds have their own number
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=500))]
    requests: u32,
    /// Only kinds whose name begins so, after the catalogue is made
    #[arg(long, default_value = "", value_name = "NAME")]
    only: String,
}

/// Runs the experiment and publishes its results.
pub fn run(options: &ApiOptions, cache: Cache) -> Result<()> {
    let mut run = Run::begin(&options.options, cache, "api-keystone")?;
    let keystone = Keystone::start(&run.fresh("keystone")?)?;
    let users = Users::of(&keystone)?;

    let data = run.fresh("vitrail")?;
    let vitrail = Vitrail::configured(&run.vitraild, &data, &keystone.auth_section()?)?;
    let mut subjects = vec![Subject::new(
        VITRAIL,
        vitrail.api().clone(),
        vitrail.process(),
        None,
    )];

    let (sqlite, mariadb) = (run.fresh("sqlite")?, run.fresh("mariadb")?);
    let glance = |dir, database| {
        let setup = Setup::Cloud(&keystone, database);
        Glance::start(&run.cache, dir, &Place::here(), free_port()?, setup)
    };
    let on_sqlite = glance(&sqlite, None);
    let database = MariaDb::start(&mariadb.join("server"), &["glance"]);
    let on_mariadb = match &database {
        Ok(database) => glance(&mariadb.join("glance"), Some(database)),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    for (name, glance, database) in [
        (SQLITE, &on_sqlite, None),
        (MARIADB, &on_mariadb, database.as_ref().ok()),
    ] {
        match glance {
            Ok(glance) => subjects.push(Subject::new(
                name,
                glance.api().clone(),
                glance.process(),
                database.map(MariaDb::process),
            )),
            Err(error) => run.journal.missing(name, error)?,
        }
    }
    run.journal.version("glance", &PACKAGES.join(", "))?;
    run.journal.version("mariadb", &MariaDb::version())?;
    run.journal
        .version("python3", &version("python3", &["--version"]))?;

    let keystone_before = keystone.process().cpu()?;
    for group in GROUPS {
        for kind in group.kinds {
            let makes_catalogue = kind.key == "create";
            if !makes_catalogue && !kind.key.starts_with(&options.only) {
                continue;
            }
            let count = match kind.count {
                Some(count) => count,
                None => options.requests as usize,
            };
            measure(&mut run, kind, count, &users, &mut subjects)?;
            if makes_catalogue {
                for subject in &subjects {
                    subject.publish(&users)?;
                }
            }
        }
    }
    if options.only.is_empty() {
        crowd::run(&mut run, &users, &subjects)?;
    }
    let keystone_cpu = keystone.process().cpu()? - keystone_before;
    run.journal.note(&format!(
        "One client, one request at a time, on loopback, of users that the server knows from its cache of tokens but where the \
         kind says otherwise. Imports are not measured: Glance under uWSGI leaves one undone now and then. Answers are read within the time. Vitrail keeps the connection open, Glance under uWSGI does not. \
         Keystone's CPU time is nobody's here: {:.1} s in all.",
        keystone_cpu.as_secs_f64()
    ))?;
    let table = table::render(&run.journal);
    report::publish_table(&run.journal, &table)
}

/// Makes `count` requests of one kind to every subject, in turn, and records each.
fn measure(
    run: &mut Run,
    kind: &'static Kind,
    count: usize,
    users: &Users,
    subjects: &mut [Subject<'_>],
) -> Result<()> {
    let turns = count.div_ceil(IN_TURN);
    let mut spent = vec![Spent::default(); subjects.len()];
    for turn in 0..turns {
        eprintln!("api: {} {}/{turns}", kind.key, turn + 1);
        let numbers = turn * IN_TURN..count.min((turn + 1) * IN_TURN);
        let tokens = kind.fresh_tokens(users, numbers.len())?;
        // Another one begins each turn, so that a slow spell hits no subject alone.
        for place in 0..subjects.len() {
            let place = (turn + place) % subjects.len();
            let (subject, spent) = (&mut subjects[place], &mut spent[place]);
            let before = subject.cpu()?;
            let mut times = Vec::with_capacity(numbers.len());
            for (number, token) in numbers.clone().zip(&tokens) {
                let request = (kind.request)(subject.images(), users, number)?;
                let token = token.as_deref().unwrap_or_else(|| users.token(kind.who));
                let start = Instant::now();
                let answer = subject.api.ask(&request, token)?;
                times.push(start.elapsed());
                ensure!(
                    answer.status == kind.status,
                    "{} {} on {}: {}",
                    kind.key,
                    request.path,
                    subject.name,
                    answer.describe()
                );
                if kind.key == "create" {
                    let id = answer.json()?["id"].as_str().map(str::to_owned);
                    subject.made(id.context("the new image has no id")?);
                }
            }
            let after = subject.cpu()?;
            spent.server += after.server - before.server;
            spent.database += after.database - before.database;
            run.journal.times(&kind.latency, subject.name, &times)?;
        }
    }
    for (subject, spent) in subjects.iter().zip(spent) {
        let per_second = count as f64 / spent.server.as_secs_f64();
        run.journal.value(&kind.per_cpu, subject.name, per_second)?;
        if subject.database.is_some() {
            let each = spent.database.as_secs_f64() / count as f64;
            run.journal.value(&kind.database_cpu, subject.name, each)?;
        }
    }
    Ok(())
}

/// CPU time of a server, and of its database where that is a process of its own.
#[derive(Clone, Copy, Default)]
struct Spent {
    server: Duration,
    database: Duration,
}
