//! `vitrail limit`: what a site may send to others and receive from them.

use clap::{Args, Subcommand, ValueEnum};
use vitrail::admin::{Limit, Limits};

use crate::cli::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Table, text};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show the limits in force.
    Show,
    /// Change limits, at once and until the daemon stops; the configuration has those after that.
    Set(Set),
}

#[derive(Args)]
pub(super) struct Set {
    /// Most that is sent, such as `20Mbit/s`, or `none`.
    #[arg(long, value_name = "RATE", required_unless_present = "receive")]
    send: Option<String>,
    /// Most that is received, such as `20Mbit/s`, or `none`.
    #[arg(long, value_name = "RATE")]
    receive: Option<String>,
    /// For work of this class alone, instead of all.
    #[arg(long, conflicts_with = "peer")]
    class: Option<Class>,
    /// For this site alone, instead of all.
    #[arg(long, value_name = "SITE")]
    peer: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Class {
    /// Preseeds and repairs.
    Background,
}

pub(super) async fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
    let (admin, output) = (context.client.admin(), context.output);
    let mut limits = admin.limits().await?;
    if let Command::Set(set) = command {
        set.apply(&mut limits);
        limits = admin.set_limits(&limits).await?;
    }
    output.print(&limits, table)?;
    Ok(Exit::Success)
}

impl Set {
    fn apply(self, limits: &mut Limits) {
        let limit = match (self.class, &self.peer) {
            (Some(Class::Background), _) => &mut limits.background,
            (None, Some(peer)) => limits.peers.entry(peer.clone()).or_default(),
            (None, None) => &mut limits.all,
        };
        let rate = |text: String| (text != "none").then_some(text);
        if let Some(send) = self.send {
            limit.send = rate(send);
        }
        if let Some(receive) = self.receive {
            limit.receive = rate(receive);
        }
        limits.peers.retain(|_, limit| *limit != Limit::default());
    }
}

fn table(limits: &Limits) -> Table {
    let mut table = Table::with_titles(&["FOR", "SEND", "RECEIVE"], &[1, 2]);
    let mut row = |of: String, limit: &Limit| {
        let rate = |rate: &Option<String>| text(rate.as_deref());
        table.row([of, rate(&limit.send), rate(&limit.receive)]);
    };
    row("all sites".to_owned(), &limits.all);
    row("background".to_owned(), &limits.background);
    for (site, limit) in &limits.peers {
        row(format!("site {site}"), limit);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    fn set(arguments: &[&str], limits: &mut Limits) -> Result<(), clap::Error> {
        let line = Line::try_parse_from([&["set"], arguments].concat())?;
        line.set.apply(limits);
        Ok(())
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut limits = Limits::default();
        set(&["--send", "50Mbit/s"], &mut limits).unwrap();
        set(
            &[
                "--peer",
                "lyon",
                "--send",
                "5Mbit/s",
                "--receive",
                "9Mbit/s",
            ],
            &mut limits,
        )
        .unwrap();
        set(
            &["--class", "background", "--receive", "2Mbit/s"],
            &mut limits,
        )
        .unwrap();
        set(&["--peer", "lyon", "--send", "none"], &mut limits).unwrap();
        assert_eq!(limits.all.send.as_deref(), Some("50Mbit/s"));
        assert_eq!(limits.background.receive.as_deref(), Some("2Mbit/s"));
        assert_eq!(limits.peers["lyon"].send, None);
        assert_eq!(limits.peers["lyon"].receive.as_deref(), Some("9Mbit/s"));
        set(&["--peer", "lyon", "--receive", "none"], &mut limits).unwrap();
        assert!(limits.peers.is_empty());
    }

    #[test]
    fn something_has_to_be_named_and_for_one_thing() {
        let mut limits = Limits::default();
        for wrong in [
            &[][..],
            &["--peer", "lyon"],
            &["--peer", "lyon", "--class", "background", "--send", "none"],
        ] {
            assert!(set(wrong, &mut limits).is_err(), "{wrong:?}");
        }
    }
}
