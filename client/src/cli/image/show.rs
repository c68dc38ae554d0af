//! `vitrail image show`

use clap::Args;
use vitrail::Image;

use crate::cli::Context;
use crate::cli::output::{Table, size, text};

#[derive(Args)]
pub(crate) struct Show {
    /// Id or unambiguous name.
    image: String,
}

impl Show {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let image = context.client.images().find(&self.image).await?;
        context.output.print(&image, table)?;
        Ok(())
    }
}

/// One field a row; custom properties come last.
pub(super) fn table(image: &Image) -> Table {
    let mut table = Table::default();
    table.field("id", &image.id);
    table.field("name", text(image.name.as_deref()));
    table.field("status", &image.status);
    table.field("visibility", &image.visibility);
    table.field("owner", text(image.owner.as_deref()));
    table.field("protected", image.protected.to_string());
    table.field("disk format", text(image.disk_format.as_deref()));
    table.field("container format", text(image.container_format.as_deref()));
    table.field("size", exact_size(image.size));
    table.field("virtual size", exact_size(image.virtual_size));
    table.field("md5", text(image.checksum.as_deref()));
    table.field(
        image.os_hash_algo.as_deref().unwrap_or("hash"),
        text(image.os_hash_value.as_deref()),
    );
    table.field("created", &image.created_at);
    table.field("updated", &image.updated_at);
    table.field("tags", image.tags.join(", "));
    for (key, value) in image.properties() {
        table.field("property", format!("{key}={value}"));
    }
    table
}

/// `3.00 GiB (3221225472)`
fn exact_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| size(None), |bytes| format!("{} ({bytes})", size(bytes)))
}
