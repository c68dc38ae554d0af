//! `vitrail image push`

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vitrail::format;
use vitrail::image::{NewImage, Visibility};
use vitrail::transfer::{PushOptions, push};

use crate::cli::Context;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::image::{show, visibility_parser};
use crate::cli::progress::Progress;

#[derive(Args)]
pub(crate) struct Push {
    /// File or block device to upload.
    file: PathBuf,

    /// Name of the image; need not be unique.
    #[arg(long)]
    name: String,

    /// What the file is: raw, qcow2, vmdk, vhd, vhdx, vdi, iso, …
    #[arg(long, value_name = "FORMAT")]
    disk_format: Option<String>,

    /// What the disk is wrapped in; bare for nothing.
    #[arg(long, value_name = "FORMAT", default_value = "bare")]
    container_format: String,

    /// Id of the image; a random one if not given.
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,

    /// Custom property; may be given several times.
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = parse_property)]
    properties: Vec<(String, String)>,

    /// Tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,

    /// Who may see the image; by default those it is shared with.
    #[arg(long, value_parser = visibility_parser())]
    visibility: Option<Visibility>,

    /// Keep the new record if the upload fails.
    #[arg(long)]
    keep: bool,

    /// Do not compare what the site received with what was sent.
    #[arg(long)]
    no_verify: bool,
}

impl Push {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let disk_format = choose_format(&self.file, self.disk_format, context)?;
        let new = NewImage {
            id: self.id,
            name: Some(self.name),
            disk_format: Some(disk_format),
            container_format: Some(self.container_format),
            visibility: self.visibility,
            tags: self.tags,
            properties: self.properties.into_iter().collect(),
        };
        let options = PushOptions {
            keep: self.keep,
            verify: !self.no_verify,
            cancel: cancel_on_signal()?,
        };
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        let progress = Progress::of_bytes(context.output, "pushing", size);
        let bar = progress.clone();
        let on_position = move |bytes| bar.set_position(bytes);
        let image = push(&context.client, &new, &self.file, &options, on_position).await?;
        drop(progress);
        context.output.print(&image, show::table)?;
        Ok(())
    }
}

/// The declared format. What the file looks like is only advice: the site decides.
fn choose_format(
    path: &Path,
    declared: Option<String>,
    context: &Context,
) -> anyhow::Result<String> {
    let likely = File::open(path)
        .and_then(|mut file| format::guess(&mut file))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let Some(declared) = declared else {
        return Err(UsageError {
            message: "--disk-format is missing".to_owned(),
            hint: format!(
                "{} looks like {likely}: add --disk-format {likely}",
                path.display()
            ),
        }
        .into());
    };
    // No magic means any of the formats that have none, and raw may hold anything.
    if likely != "raw" && likely != declared {
        let path = path.display();
        context.output.note(&format!(
            "warning: {path} looks like {likely}, not {declared}"
        ));
    }
    Ok(declared)
}

fn parse_property(argument: &str) -> Result<(String, String), String> {
    const FIELDS: [&str; 6] = [
        "id",
        "name",
        "disk_format",
        "container_format",
        "visibility",
        "tags",
    ];
    match argument.split_once('=') {
        Some((key, _)) if FIELDS.contains(&key) => Err(format!("{key} has an option of its own")),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}

/// Ctrl-C and SIGTERM end the upload in good order; a second one ends the process.
fn cancel_on_signal() -> anyhow::Result<CancellationToken> {
    async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        token.cancel();
        either(&mut interrupt, &mut terminate).await;
        process::exit(Exit::Interrupted.code().into());
    });
    Ok(cancel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_split_at_the_first_equals_sign() {
        let split = |argument| parse_property(argument).map_err(|_| ());
        assert_eq!(split("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(split("a="), Ok(("a".to_owned(), String::new())));
        for bad in ["a", "=b", "name=x"] {
            assert_eq!(split(bad), Err(()), "{bad}");
        }
    }
}
