//! `vitrail preseed`

use std::collections::BTreeMap;

use clap::Args;
use indicatif::MultiProgress;
use vitrail::admin::{Event, PreseedProgress, PreseedReport, PreseedState, Target};

use crate::cli::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, Table, size, text};
use crate::cli::progress::{self, Progress};

/// Sites that have a bar of their own; what others do is told in lines alone.
const BARS_MAX: usize = 32;

/// Sites whose progress is told at all. The report has every site.
const SITES_MAX: usize = 10_000;

#[derive(Args)]
pub(super) struct Preseed {
    /// Ids or unambiguous names. If one of them cannot be found, nothing is begun.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Names of the sites that shall hold the images, separated by commas.
    #[arg(
        long,
        value_name = "SITE,...",
        value_delimiter = ',',
        required_unless_present = "all"
    )]
    sites: Vec<String>,

    /// Every site that is known.
    #[arg(long, conflicts_with = "sites")]
    all: bool,
}

impl Preseed {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut names = BTreeMap::new();
        for image in &self.images {
            let image = context.client.images().find(image).await?;
            let name = image.name.unwrap_or_else(|| image.id.clone());
            names.insert(image.id, name);
        }
        let images: Vec<_> = names.keys().cloned().collect();
        let target = match self.all {
            true => Target::All,
            false => Target::Sites(self.sites),
        };
        let mut work = context.client.admin().preseed(&images, &target).await?;
        let mut board = Board::new(context.output, &names);
        let report = loop {
            match work.next().await? {
                Event::Progress(progress) => board.show(progress),
                Event::Done(report) => break report,
            }
        };
        drop(board);
        let output = context.output;
        output.print(&report, |report| table(report, &names))?;
        Ok(match report.ok {
            true => Exit::Success,
            false => Exit::Incomplete,
        })
    }
}

fn table(report: &PreseedReport, names: &BTreeMap<String, String>) -> Table {
    let mut table = Table::with_titles(&["SITE", "IMAGE", "OUTCOME", "DATA", "REASON"], &[3]);
    for pair in &report.sites {
        let outcome = match pair.state {
            PreseedState::Held => "held",
            PreseedState::Failed => "failed",
            PreseedState::Running => "unfinished",
        };
        table.row([
            pair.site.clone(),
            text(names.get(&pair.image).map(String::as_str)),
            outcome.to_owned(),
            // A site that had nothing to do, or does not know the image, counts none.
            size(Some(pair.total_bytes).filter(|&bytes| bytes > 0)),
            pair.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// What people see of the work: on a terminal a bar for each site, elsewhere lines.
struct Board<'a> {
    output: Output,
    names: &'a BTreeMap<String, String>,
    bars: MultiProgress,
    sites: BTreeMap<String, Row>,
}

struct Row {
    bar: Option<Progress>,
    latest: Option<PreseedProgress>,
}

impl<'a> Board<'a> {
    fn new(output: Output, names: &'a BTreeMap<String, String>) -> Self {
        Self {
            output,
            names,
            bars: MultiProgress::new(),
            sites: BTreeMap::new(),
        }
    }

    fn show(&mut self, now: PreseedProgress) {
        let shown = self.sites.len();
        if shown == SITES_MAX && !self.sites.contains_key(&now.site) {
            return;
        }
        let row = self.sites.entry(now.site.clone()).or_insert_with(|| {
            let has_bar = shown < BARS_MAX && progress::is_shown(self.output);
            let bar = has_bar.then(|| Progress::of_bytes_among(&self.bars, self.output));
            Row { bar, latest: None }
        });
        // A site takes one image after the other.
        let before = row.latest.take().filter(|it| it.image == now.image);
        let name = self.names.get(&now.image).unwrap_or(&now.image);
        let label = format!("{}: {name}", now.site);
        if let Some(bar) = &row.bar {
            match &before {
                Some(before) if before.total_bytes > 0 => bar.set_position(now.done_bytes),
                _ => bar.restart(&label, now.done_bytes, now.total_bytes),
            }
        }
        if let Some(news) = news(before.as_ref(), &now, row.bar.is_some()) {
            let line = format!("{label}: {news}");
            self.bars.suspend(|| self.output.note(&line));
        }
        row.latest = Some(now);
    }
}

/// What is worth a line after the progress with the same image before. A bar tells of bytes by
/// itself.
fn news(before: Option<&PreseedProgress>, now: &PreseedProgress, has_bar: bool) -> Option<String> {
    if now.state == PreseedState::Running {
        // The reason of a failure stays while the next try runs.
        let is_retried = before.is_none_or(|before| before.reason != now.reason);
        if let Some(reason) = now.reason.as_ref().filter(|_| is_retried) {
            return Some(format!("{reason}; trying again"));
        }
        if has_bar {
            return None;
        }
    }
    Some(line(now)).filter(|now| before.map(line).as_ref() != Some(now))
}

/// The state in words, and how much is there in tenths.
fn line(progress: &PreseedProgress) -> String {
    match (progress.state, &progress.reason) {
        (PreseedState::Held, _) => "held".to_owned(),
        (PreseedState::Failed, Some(reason)) => format!("failed: {reason}"),
        (PreseedState::Failed, None) => "failed".to_owned(),
        (PreseedState::Running, _) => {
            let tenths = u128::from(progress.done_bytes) * 10;
            match tenths.checked_div(progress.total_bytes.into()) {
                Some(tenths) => format!("{}% of {}", tenths * 10, size(progress.total_bytes)),
                None => "begun".to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: PreseedState, done: u64, reason: Option<&str>) -> PreseedProgress {
        PreseedProgress {
            image: "id-1".to_owned(),
            site: "paris".to_owned(),
            state,
            done_bytes: done,
            total_bytes: if done == 0 { 0 } else { 1024 },
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn lines_tell_of_steps_and_bars_of_the_rest() {
        use PreseedState::{Failed, Held, Running};
        // State, bytes done, reason; the line without a bar; the one beside it.
        let story = [
            (Running, 0, None, Some("begun"), None),
            (Running, 0, None, None, None),
            (Running, 500, None, Some("40% of 1.00 KiB"), None),
            (Running, 510, None, None, None),
            (
                Running,
                510,
                Some("cut"),
                Some("cut; trying again"),
                Some("cut; trying again"),
            ),
            (Running, 520, Some("cut"), Some("50% of 1.00 KiB"), None),
            (Held, 1024, None, Some("held"), Some("held")),
            (Held, 1024, None, None, None),
            (
                Failed,
                1024,
                Some("full"),
                Some("failed: full"),
                Some("failed: full"),
            ),
        ];
        let mut before: Option<PreseedProgress> = None;
        for (state, done, reason, line, line_beside_bar) in story {
            let now = progress(state, done, reason);
            let told = |has_bar| news(before.as_ref(), &now, has_bar);
            assert_eq!(told(false).as_deref(), line);
            assert_eq!(told(true).as_deref(), line_beside_bar);
            before = Some(now);
        }
    }
}
