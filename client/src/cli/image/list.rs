//! `vitrail image list`

use clap::Args;
use vitrail::Image;
use vitrail::image::{ImageQuery, PAGE_LEN_DEFAULT, Visibility};

use crate::cli::Context;
use crate::cli::image::visibility_parser;
use crate::cli::output::{Table, size, text};

#[derive(Args)]
pub(crate) struct List {
    /// Only images of this name.
    #[arg(long)]
    name: Option<String>,

    /// Only images in this status, such as active or queued.
    #[arg(long)]
    status: Option<String>,

    /// Only images of this visibility.
    #[arg(long, value_parser = visibility_parser())]
    visibility: Option<Visibility>,

    /// Only images with this tag; may be given several times, then all must be there.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,

    /// Order, as in name:asc,created_at:desc.
    #[arg(long, value_name = "KEY:DIRECTION")]
    sort: Option<String>,

    /// Stop after this many images.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

impl List {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let limit = self.limit.unwrap_or(u32::MAX);
        let query = ImageQuery {
            name: self.name,
            status: self.status,
            visibility: self.visibility,
            tags: self.tags,
            sort: self.sort,
            page_len: limit.min(PAGE_LEN_DEFAULT),
        };
        let mut pages = context.client.images().list(&query);
        let mut images = Vec::new();
        while images.len() < limit as usize
            && let Some(page) = pages.next().await?
        {
            images.extend(page);
        }
        images.truncate(limit as usize);
        context.output.print(&images, |images| table(images))?;
        Ok(())
    }
}

fn table(images: &[Image]) -> Table {
    let mut table =
        Table::with_titles(&["ID", "NAME", "STATUS", "FORMAT", "SIZE", "CREATED"], &[4]);
    for image in images {
        table.row([
            image.id.clone(),
            text(image.name.as_deref()),
            image.status.clone(),
            text(image.disk_format.as_deref()),
            size(image.size),
            image.created_at.clone(),
        ]);
    }
    table
}
