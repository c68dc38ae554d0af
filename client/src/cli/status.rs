//! `vitrail status`

use std::time::Duration;

use indicatif::HumanDuration;
use vitrail::admin::SiteStatus;

use crate::cli::exit::Exit;
use crate::cli::output::{Table, count, text};
use crate::cli::{Context, store};

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let status = context.client.admin().status().await?;
    context.output.print(&status, table)?;
    Ok(Exit::Success)
}

fn table(status: &SiteStatus) -> Table {
    let uptime = Duration::from_secs(status.uptime_s);
    let mut table = Table::default();
    table.field("site", &status.site);
    table.field("zone", text(status.zone.as_deref()));
    table.field("version", &status.version);
    table.field(
        "up since",
        format!("{} ({})", status.started_at, HumanDuration(uptime)),
    );
    table.field("images", count(status.images));
    store::usage(&status.store, &mut table);
    table
}
