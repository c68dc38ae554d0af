//! Arguments and their dispatch. A command group is a module; so is a command that takes more than
//! a few lines. Commands return errors, [`exit`] turns them into messages and codes.

mod ca;
mod exit;
mod image;
mod limit;
mod output;
mod preseed;
mod progress;
mod site;
mod status;
mod store;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use vitrail::{Client, Config, Url};

use exit::Exit;
use output::Output;

/// VM images at the sites of a Vitrail mesh.
#[derive(Parser)]
#[command(name = "vitrail", version, max_term_width = 100, after_help = exit::help())]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Print JSON documents to stdout, and errors as JSON to stderr.
    #[arg(long, global = true)]
    json: bool,

    /// Image API of the site.
    #[arg(
        long, global = true, value_name = "URL",
        env = "VITRAIL_ENDPOINT", default_value_t = Config::default().endpoint
    )]
    endpoint: Url,

    /// Admin API of the site, used by `store`, `site`, `limit`, `preseed` and `status`.
    #[arg(
        long, global = true, value_name = "URL",
        env = "VITRAIL_ADMIN_ENDPOINT", default_value_t = Config::default().admin_endpoint
    )]
    admin_endpoint: Url,

    /// Keystone token for the Image API.
    #[arg(long, global = true, env = "OS_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Move images in and out of a site, and look after their records.
    #[command(subcommand)]
    Image(image::Command),
    /// Bring images to sites, and wait until they hold them.
    ///
    /// Done is what is on the disks of a site. Ending the command does not stop the sites.
    Preseed(preseed::Preseed),
    /// Look at the sites of the mesh.
    #[command(subcommand)]
    Site(site::Command),
    /// Say how much a site may send to others and receive from them.
    #[command(subcommand)]
    Limit(limit::Command),
    /// Look after the store of a site.
    #[command(subcommand)]
    Store(store::Command),
    /// Make the certificates of a mesh.
    #[command(subcommand)]
    Ca(ca::Command),
    /// Show what a site is and holds.
    Status,
    /// Print a completion script for a shell.
    Completions {
        /// Shell to complete for.
        shell: Shell,
    },
}

/// What every command works with.
struct Context {
    client: Client,
    output: Output,
}

/// Runs one command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let output = Output::new(cli.global.json);
    let exit = match execute(cli, output) {
        Ok(exit) => exit,
        Err(error) => exit::report(&error, output),
    };
    exit.into()
}

fn execute(cli: Cli, output: Output) -> anyhow::Result<Exit> {
    if let Command::Completions { shell } = cli.command {
        // Not straight to stdout: the generator panics if that is closed early.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "vitrail", &mut script);
        io::stdout().write_all(&script)?;
        return Ok(Exit::Success);
    }
    if let Command::Ca(command) = cli.command {
        return ca::run(command, output);
    }
    let client = Client::new(Config {
        endpoint: cli.global.endpoint,
        admin_endpoint: cli.global.admin_endpoint,
        token: cli.global.token,
        ..Config::default()
    })?;
    let context = Context { client, output };
    // One thread for the network; hashing and file work have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Image(command) => image::run(command, &context).await,
            Command::Preseed(preseed) => preseed.run(&context).await,
            Command::Site(command) => site::run(command, &context).await,
            Command::Limit(command) => limit::run(command, &context).await,
            Command::Store(command) => store::run(command, &context).await,
            Command::Status => status::run(&context).await,
            Command::Ca(_) | Command::Completions { .. } => {
                unreachable!("answered above, without a client")
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command and option stands on the reference page.
    #[test]
    fn the_reference_page_is_complete() {
        const PAGE: &str = include_str!("../../docs/CLI.md");
        fn visit(path: &str, command: &clap::Command) {
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long().filter(|&long| long != "help") else {
                    continue;
                };
                assert!(
                    PAGE.contains(&format!("`--{long}")),
                    "{path} --{long} is not documented"
                );
            }
            for command in command
                .get_subcommands()
                .filter(|it| it.get_name() != "help")
            {
                let path = format!("{path} {}", command.get_name());
                if !command.has_subcommands() {
                    assert!(PAGE.contains(&path), "{path} is not documented");
                }
                visit(&path, command);
            }
        }
        visit("vitrail", &Cli::command());
        for exit in Exit::ALL {
            let row = format!("| {} |", exit.code());
            assert!(
                PAGE.contains(&row),
                "exit code {} is not documented",
                exit.code()
            );
        }
    }
}
