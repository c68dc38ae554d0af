//! `vitrail site`: the sites of the mesh.

use clap::Subcommand;
use vitrail::admin::{Link, Site, SiteDetail};

use crate::cli::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Table, count, rtt, size, text};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the sites that this one knows.
    List,
    /// Show a site, the connection to it, and the images that it holds.
    Show {
        /// Name of the site.
        name: String,
    },
}

pub(super) async fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
    let (admin, output) = (context.client.admin(), context.output);
    match command {
        Command::List => output.print(&admin.sites().await?, |sites| list_table(sites))?,
        Command::Show { name } => output.print(&admin.site(&name).await?, detail_table)?,
    }
    Ok(Exit::Success)
}

fn list_table(sites: &[Site]) -> Table {
    let titles = [
        "NAME", "ZONE", "STATE", "RTT", "IMAGES", "ADDRESS", "RX", "TX",
    ];
    let mut table = Table::with_titles(&titles, &[3, 4, 6, 7]);
    for site in sites {
        let link = site.link.as_ref();
        table.row([
            site.name.clone(),
            text(site.zone.as_deref()),
            state(site).to_owned(),
            rtt(link.map(|link| link.rtt_ms)),
            count(site.images_held),
            text(site.addresses.first().map(String::as_str)),
            size(link.map(|link| link.rx_bytes)),
            size(link.map(|link| link.tx_bytes)),
        ]);
    }
    table
}

fn detail_table(detail: &SiteDetail) -> Table {
    let SiteDetail { site, images } = detail;
    let mut table = Table::default();
    table.field("name", &site.name);
    table.field("zone", text(site.zone.as_deref()));
    table.field("state", state(site));
    for address in &site.addresses {
        table.field("address", address);
    }
    if let Some(link) = &site.link {
        link_fields(link, &mut table);
    }
    table.field("images held", count(site.images_held));
    for image in images {
        let part = if image.complete { "" } else { " (in part)" };
        let name = text(image.name.as_deref());
        table.field("image", format!("{} {name}{part}", image.id));
    }
    table
}

fn link_fields(link: &Link, table: &mut Table) {
    let (now, least) = (rtt(link.rtt_ms), rtt(link.rtt_min_ms));
    table.field("round trip", format!("{now} (least {least})"));
    let rate = link.rate.map_or("-".to_owned(), |rate| size(rate) + "/s");
    table.field("rate", rate);
    table.field("received", size(link.rx_bytes));
    table.field("sent", size(link.tx_bytes));
    let (sent, lost) = (count(link.packets_sent), count(link.packets_lost));
    table.field("packets", format!("{sent} sent, {lost} lost"));
    table.field("sent twice", size(link.bytes_sent_twice));
    table.field("works for", &link.class);
    table.field("congestion", text(link.state.as_deref()));
}

fn state(site: &Site) -> &'static str {
    match site {
        Site { is_self: true, .. } => "self",
        Site { up: true, .. } => "up",
        Site { up: false, .. } => "down",
    }
}
