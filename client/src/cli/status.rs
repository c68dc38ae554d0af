//! `vitrail status`

use std::time::Duration;

use indicatif::HumanDuration;
use serde::Serialize;
use vitrail::admin::{AdminApi, SiteStatus};

use crate::cli::exit::Exit;
use crate::cli::output::{Table, count, text};
use crate::cli::{Context, store};

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    site: SiteStatus,
    /// None for a site that is alone.
    mesh: Option<Mesh>,
}

/// Sites of the mesh, this one included.
#[derive(Serialize)]
struct Mesh {
    sites_known: u64,
    sites_up: u64,
}

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let admin = context.client.admin();
    let (site, mesh) = (admin.status().await?, mesh(admin).await?);
    context.output.print(&Status { site, mesh }, table)?;
    Ok(Exit::Success)
}

async fn mesh(admin: AdminApi<'_>) -> vitrail::Result<Option<Mesh>> {
    let sites = match admin.sites().await {
        Err(error) if error.status() == Some(409) => return Ok(None),
        sites => sites?,
    };
    Ok(Some(Mesh {
        sites_known: sites.len() as u64,
        sites_up: sites.iter().filter(|site| site.up).count() as u64,
    }))
}

fn table(status: &Status) -> Table {
    let Status { site, mesh } = status;
    let uptime = Duration::from_secs(site.uptime_s);
    let mesh = match mesh {
        Some(mesh) => {
            let (up, known) = (count(mesh.sites_up), count(mesh.sites_known));
            format!("{up} of {known} sites up")
        }
        None => "none, this site is alone".to_owned(),
    };
    let mut table = Table::default();
    table.field("site", &site.site);
    table.field("zone", text(site.zone.as_deref()));
    table.field("version", &site.version);
    table.field(
        "up since",
        format!("{} ({})", site.started_at, HumanDuration(uptime)),
    );
    table.field("mesh", mesh);
    table.field("images", count(site.images));
    store::usage(&site.store, &mut table);
    table
}
