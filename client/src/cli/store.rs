//! `vitrail store`: figures and upkeep of a site's store.

use clap::Subcommand;
use serde::de::DeserializeOwned;
use vitrail::admin::{Event, GcReport, Operation, StoreStats, VerifyReport};

use crate::cli::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, Table, count, size};
use crate::cli::progress::Progress;

/// Faults that are listed for people; `--json` has all.
const FAULTS_SHOWN: usize = 20;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what the store holds and what it takes on disk.
    Stats,
    /// Free the space of chunks that no image needs any more.
    Gc {
        /// Only count what would be freed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Read everything that is stored and check it against its hashes.
    Verify,
    /// Do the same so slowly that nobody notices; in a mesh, damaged chunks are then fetched from other sites.
    Scrub {
        /// Bytes of disk to read in a second, such as 50MB/s; 0 is as fast as it goes [default: the site's].
        #[arg(long, value_parser = parse_rate)]
        rate: Option<u64>,
    },
}

pub(super) async fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
    let (admin, output) = (context.client.admin(), context.output);
    match command {
        Command::Stats => output.print(&admin.store_stats().await?, stats_table)?,
        Command::Gc { dry_run } => {
            let report = follow(admin.gc(dry_run).await?, output).await?;
            output.print(&report, gc_table)?;
        }
        Command::Verify => return read_back(admin.verify().await?, output).await,
        Command::Scrub { rate } => return read_back(admin.scrub(rate).await?, output).await,
    }
    Ok(Exit::Success)
}

async fn read_back(operation: Operation<VerifyReport>, output: Output) -> anyhow::Result<Exit> {
    let report = follow(operation, output).await?;
    output.print(&report, verify_table)?;
    Ok(if report.ok {
        Exit::Success
    } else {
        Exit::Damaged
    })
}

/// Bytes per second, as a number with or without a unit of bytes, and with or without `/s`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => {
            return Err(format!(
                "unknown unit {other:?}; use B, kB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "not a rate such as 50MB/s".to_owned())
}

/// Shows the progress of long work until its report comes.
async fn follow<T: DeserializeOwned>(
    mut operation: Operation<T>,
    output: Output,
) -> vitrail::Result<T> {
    let mut stage = String::new();
    let mut bar = None;
    loop {
        let progress = match operation.next().await? {
            Event::Progress(progress) => progress,
            Event::Done(report) => return Ok(report),
        };
        if stage != progress.stage {
            bar = Some(Progress::of_work(output, &progress.stage, progress.total));
            stage = progress.stage;
        }
        if let Some(bar) = &bar {
            bar.set_position(progress.done);
        }
    }
}

/// What is stored, and on how much disk.
pub(super) fn usage(stats: &StoreStats, table: &mut Table) {
    table.field("image bytes", size(stats.logical_bytes));
    let share = match stats.logical_bytes {
        0 => String::new(),
        logical => {
            let percent = 100.0 * stats.disk_bytes as f64 / logical as f64;
            format!(" ({percent:.1}% of image bytes)")
        }
    };
    let capacity = stats.capacity_bytes.map_or("no limit".to_owned(), size);
    table.field("on disk", size(stats.disk_bytes) + &share);
    table.field("capacity", capacity);
    table.field("free on disk", size(stats.free_bytes));
}

fn stats_table(stats: &StoreStats) -> Table {
    let mut table = Table::default();
    table.field("format", stats.format.to_string());
    table.field("images", count(stats.images));
    table.field("manifests", count(stats.manifests));
    table.field("chunks", count(stats.chunks));
    table.field("packs", count(stats.packs));
    table.field("without holes", size(stats.data_bytes));
    table.field("distinct", size(stats.unique_bytes));
    table.field("packs on disk", size(stats.pack_bytes));
    table.field("index on disk", size(stats.index_bytes));
    usage(stats, &mut table);
    table.field("damaged chunks", count(stats.damaged_chunks));
    table
}

fn gc_table(report: &GcReport) -> Table {
    let mut table = Table::default();
    table.field(
        "dry run",
        if report.dry_run {
            "yes, nothing was changed"
        } else {
            "no"
        },
    );
    table.field("dead chunks", count(report.dead_chunks));
    table.field("dead bytes", size(report.dead_bytes));
    table.field("dead manifests", count(report.dead_manifests));
    table.field("packs removed", count(report.packs_removed));
    table.field("packs compacted", count(report.packs_compacted));
    table.field("reclaimed", size(report.reclaimed_bytes));
    table.field("live chunks", count(report.live_chunks));
    table
}

fn verify_table(report: &VerifyReport) -> Table {
    let mut table = Table::default();
    table.field("result", if report.ok { "all is well" } else { "DAMAGED" });
    table.field("packs", count(report.packs));
    table.field("frames", count(report.frames));
    table.field("chunks", count(report.chunks));
    table.field("bytes read", size(report.bytes));
    table.field("manifests", count(report.manifests));
    if report.partial_manifests > 0 {
        table.field("here in part", count(report.partial_manifests));
    }
    for manifest in report.damaged_manifests.iter().take(FAULTS_SHOWN) {
        table.field("damaged", format!("manifest {manifest}"));
    }
    for damage in report.damaged.iter().take(FAULTS_SHOWN) {
        let place = format!(
            "pack {} at byte {}: {}",
            damage.pack, damage.offset, damage.reason
        );
        table.field("damaged", place);
    }
    for missing in report.missing.iter().take(FAULTS_SHOWN) {
        let chunk = format!("chunk {} of manifest {}", missing.chunk, missing.manifest);
        table.field("missing", chunk);
    }
    let hidden = report.damaged.len().saturating_sub(FAULTS_SHOWN)
        + report.damaged_manifests.len().saturating_sub(FAULTS_SHOWN)
        + report.missing.len().saturating_sub(FAULTS_SHOWN);
    if hidden > 0 {
        table.field("and", format!("{} more, see --json", count(hidden as u64)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, rate) in [
            ("0", 0),
            ("50MB/s", 50_000_000),
            ("7 KiB/s", 7168),
            ("9B", 9),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "MB/s", "-1", "5Mbit/s", "1.5MB", "99999999999GB"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
