//! `vitrail image pull`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use vitrail::Error;
use vitrail::transfer::{PullEvent, PullOptions, Pulled, RetryPolicy, pull};

use crate::cli::Context;
use crate::cli::image::receipt::{self, Watch};
use crate::cli::output::{Table, size};
use crate::cli::progress::Progress;

#[derive(Args)]
pub(crate) struct Pull {
    /// Id or unambiguous name.
    image: String,

    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// Replace FILE if it exists.
    #[arg(long)]
    force: bool,

    /// Do not compare the bytes with the hashes of the image. Also starts from the beginning.
    #[arg(long)]
    no_verify: bool,

    /// Failures in a row to bear with before giving up, when the connection breaks or the site is
    /// in trouble (5xx).
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries)]
    retries: u32,

    /// Tell what the site had to fetch from other sites for this, and what that cost.
    #[arg(long)]
    receipt: bool,
}

impl Pull {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (client, output) = (&context.client, context.output);
        let retry = RetryPolicy {
            retries: self.retries,
            ..RetryPolicy::default()
        };
        let on_retry = |error: &Error, delay| output.note(&retry_note(error, delay));
        let image = retry
            .run(on_retry, async || client.images().find(&self.image).await)
            .await?;
        let watch = match self.receipt {
            true => Watch::start(client.admin(), &image.id).await?,
            false => None,
        };

        let progress = Progress::of_bytes(output, "pulling", image.size.unwrap_or(0));
        let on_event = |event: PullEvent<'_>| match event {
            PullEvent::Position(bytes) => progress.set_position(bytes),
            PullEvent::Resumed(bytes) => {
                progress.note(&format!("going on after {}", size(bytes)));
            }
            PullEvent::Restarted => {
                progress.note("the old part file is not of this image; starting again");
            }
            PullEvent::Retrying { error, delay } => progress.note(&retry_note(error, delay)),
        };
        let options = PullOptions {
            overwrite: self.force,
            verify: !self.no_verify,
            retry,
        };
        let pulled = pull(client, &image, &self.output, options, &on_event).await?;
        drop(progress);

        let file = self.output.display().to_string();
        if !self.no_verify && pulled.verified.is_empty() {
            output.note("warning: not verified, as the site states no hash that is known here");
        }
        output.note(&summary(&file, &pulled));
        let mut document = json!({
            "id": image.id,
            "name": image.name,
            "file": file,
            "size": pulled.size,
            "received": pulled.received,
            "verified": pulled.verified,
        });
        if self.receipt {
            let receipt = match watch {
                Some(watch) => watch.finish().await,
                None => Ok(None),
            };
            let receipt = receipt
                .with_context(|| format!("{file} is complete, but its receipt cannot be had"))?;
            receipt::show(receipt.as_ref(), output)?;
            document["receipt"] = json!(receipt);
        }
        output.print(&document, |_| Table::default())?;
        Ok(())
    }
}

fn retry_note(error: &Error, delay: Duration) -> String {
    format!("{error}; trying again in {:.1} s", delay.as_secs_f64())
}

fn summary(file: &str, pulled: &Pulled) -> String {
    let received = match pulled.received {
        all if all == pulled.size => String::new(),
        received => format!(" ({} over the network)", size(received)),
    };
    let hashes: Vec<_> = pulled.verified.iter().map(ToString::to_string).collect();
    let verified = match hashes.as_slice() {
        [] => String::new(),
        hashes => format!(", {} verified", hashes.join(" and ")),
    };
    format!("{file}: {}{received}{verified}", size(pulled.size))
}
