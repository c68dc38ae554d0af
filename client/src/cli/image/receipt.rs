//! The receipt of a pull: what the site had to fetch for it.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vitrail::admin::{AdminApi, PathFigures, Receipt};

use crate::cli::output::{Output, Table, count, rtt, size};

/// Longest wait for a receipt. The site writes it when the bytes are on disk, which is a little
/// after its clients have them.
const WAIT: Duration = Duration::from_secs(10);

/// Time between two questions for it.
const INTERVAL: Duration = Duration::from_millis(100);

/// Waits for the receipt of one pull and tells it from older ones of the same image.
pub(super) struct Watch<'a> {
    admin: AdminApi<'a>,
    image: &'a str,
    before: Option<Mark>,
    /// Whether a receipt has to come, as the site does not hold the whole image.
    due: bool,
}

/// What names a receipt: its number, which starts again with the daemon, and its time.
type Mark = (u64, String);

fn mark(receipt: &Receipt) -> Mark {
    (receipt.pull, receipt.started_at.clone())
}

impl<'a> Watch<'a> {
    /// To be called before the pull. `None` for a site that is alone: it fetches nothing.
    pub(super) async fn start(
        admin: AdminApi<'a>,
        image: &'a str,
    ) -> vitrail::Result<Option<Self>> {
        let before = match newest(admin, image).await {
            Err(error) if error.status() == Some(409) => return Ok(None),
            receipt => receipt?.as_ref().map(mark),
        };
        let site = admin.status().await?.site;
        let held = admin.site(&site).await?.images;
        let due = !held.iter().any(|held| held.id == image && held.complete);
        Ok(Some(Self {
            admin,
            image,
            before,
            due,
        }))
    }

    /// To be called after the pull. `None` if everything was at the site already.
    pub(super) async fn finish(self) -> vitrail::Result<Option<Receipt>> {
        let deadline = Instant::now() + WAIT;
        loop {
            let receipt = newest(self.admin, self.image).await?;
            let receipt = receipt.filter(|receipt| Some(mark(receipt)) != self.before);
            if receipt.is_some() || !self.due || Instant::now() >= deadline {
                return Ok(receipt);
            }
            sleep(INTERVAL).await;
        }
    }
}

async fn newest(admin: AdminApi<'_>, image: &str) -> vitrail::Result<Option<Receipt>> {
    Ok(admin.receipts(Some(image), 1).await?.pop())
}

/// Shows people a receipt, or that there is none.
pub(super) fn show(receipt: Option<&Receipt>, output: Output) -> io::Result<()> {
    match receipt {
        Some(receipt) => output.note_table(&table(receipt)),
        None => {
            output.note("receipt: everything was at the site already");
            Ok(())
        }
    }
}

fn table(receipt: &Receipt) -> Table {
    let mut table = Table::default();
    let Receipt {
        pull,
        site,
        started_at,
        ..
    } = receipt;
    table.field("receipt", format!("pull {pull} of {site}, {started_at}"));
    table.field("outcome", &receipt.outcome);
    table.field("seconds", seconds(receipt));
    table.field("image", size(receipt.image_bytes));
    table.field("holes", size(receipt.hole_bytes));
    table.field("already there", size(receipt.local_bytes));
    for (peer, bytes) in &receipt.peers {
        let (raw, wire) = (size(bytes.raw), size(bytes.wire));
        table.field(
            &format!("from {peer}"),
            format!("{raw}, {wire} on the wire"),
        );
        if let Some(path) = &bytes.path {
            table.field(&format!("path of {peer}"), path_text(path));
        }
    }
    table.field("encoding", &receipt.encoding);
    table
}

/// `11 MiB/s, round trip 101.2 ms (least 100.1 ms), 3 of 4000 packets lost, 4 KiB sent twice, cruise`
fn path_text(path: &PathFigures) -> String {
    let rate = path.rate.map(|rate| size(rate) + "/s, ");
    let (rtt, least) = (rtt(path.rtt_ms), rtt(path.rtt_min_ms));
    let (lost, sent) = (count(path.packets_lost), count(path.packets_sent));
    let twice = size(path.bytes_sent_twice);
    format!(
        "{}round trip {rtt} (least {least}), {lost} of {sent} packets lost, {twice} sent twice, {}",
        rate.unwrap_or_default(),
        path.state
    )
}

/// `12.3, at least 11.0 by the links of lyon and nice`
fn seconds(receipt: &Receipt) -> String {
    let seconds = format!("{:.1}", receipt.seconds);
    let Some(bound) = receipt.bound_seconds else {
        return seconds;
    };
    let links = match receipt.bottleneck.as_slice() {
        [] => format!("the link of {}", receipt.site),
        sites => format!("the links of {}", sites.join(", ")),
    };
    format!("{seconds}, at least {bound:.1} by {links}")
}
