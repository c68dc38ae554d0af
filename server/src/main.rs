//! `vitraild`: one site of a Vitrail mesh.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use vitraild::config::{Config, LogFormat};
use vitraild::daemon::Daemon;

/// The daemon of a Vitrail site.
///
/// With --data-dir alone it serves a single site on loopback, without authentication. Flags win over the
/// configuration file.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Configuration file (TOML); deploy/site.toml shows every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the Image API (default 127.0.0.1:9292)
    #[arg(long, value_name = "HOST:PORT")]
    api_listen: Option<SocketAddr>,
    /// Address of the admin API, metrics and web page (default 127.0.0.1:9294)
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vitraild: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let mut config = match &flags.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if flags.data_dir.is_some() {
        config.site.data_dir = flags.data_dir;
    }
    config.api.listen = flags.api_listen.unwrap_or(config.api.listen);
    config.admin.listen = flags.admin_listen.unwrap_or(config.admin.listen);
    log_to_stderr(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let daemon = Daemon::start(config).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            result = tokio::signal::ctrl_c() => result?,
        }
        daemon.stop().await;
        Ok(())
    });
    // What still runs, such as a verification that an operator asked for, is safe to cut off.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn log_to_stderr(config: &Config) {
    let level = config.log.level.clone().unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_from_env("VITRAIL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal);
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
