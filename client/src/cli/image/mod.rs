//! `vitrail image`: images and their records.

mod list;
mod pull;
mod push;
mod receipt;
mod rm;
mod show;

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use vitrail::image::Visibility;

use crate::cli::Context;
use crate::cli::exit::Exit;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Upload a file as a new image.
    ///
    /// If the upload fails, the new record is deleted again.
    Push(push::Push),
    /// Download an image to a file.
    ///
    /// The bytes go to FILE.part, with holes where they are zero, and take their name when all of
    /// them are there and verified. An interrupted pull goes on where it stopped when it is run
    /// again.
    Pull(pull::Pull),
    /// List images, newest first.
    List(list::List),
    /// Show the record of an image.
    Show(show::Show),
    /// Delete images.
    Rm(rm::Rm),
}

pub(super) async fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
    match command {
        Command::Push(push) => push.run(context).await?,
        Command::Pull(pull) => pull.run(context).await?,
        Command::List(list) => list.run(context).await?,
        Command::Show(show) => show.run(context).await?,
        Command::Rm(rm) => rm.run(context).await?,
    }
    Ok(Exit::Success)
}

fn visibility_parser() -> impl TypedValueParser<Value = Visibility> {
    let names = PossibleValuesParser::new(Visibility::ALL.map(Visibility::as_str));
    names.map(|name| {
        let named = Visibility::ALL
            .into_iter()
            .find(|visibility| visibility.as_str() == name);
        named.expect("the parser lets only these names pass")
    })
}
