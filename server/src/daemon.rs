//! Bringing a site up, and down again.
//!
//! Stopping: the listeners close and `/readyz` says so; requests in flight get [`GRACE`] to end; then
//! connections are cut, whose uploads return their images to `queued`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use vitrail_chunkstore::{Options, Store};

use crate::admin::{self, Admin};
use crate::auth::Authenticator;
use crate::catalogue::{self, Catalogue, now_ms};
use crate::collector::Collector;
use crate::config::Config;
use crate::content::Content;
use crate::glance::Api;
use crate::metrics::Metrics;
use crate::peer::{self, Peers};
use crate::scrubber::Scrubber;
use crate::tls::Certificate;

/// How long requests in flight may go on after a stop was asked for.
pub const GRACE: Duration = Duration::from_secs(30);
/// Largest request head in bytes; more is answered 431.
const HEAD_LEN_MAX: usize = 64 * 1024;

/// A site that is up.
pub struct Daemon {
    /// Where the Image API listens.
    pub api: SocketAddr,
    /// Where the admin API listens.
    pub admin: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    image_api: Arc<Api>,
    peers: Option<Arc<Peers>>,
    peers_stop: CancellationToken,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Daemon {
    /// Opens the store and the catalogue and begins to listen.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        config.check()?;
        let started = (Instant::now(), now_ms());
        let data_dir = config
            .site
            .data_dir
            .clone()
            .context("no data directory: pass --data-dir, or set [site] data_dir")?;
        let config = Arc::new(config);
        let (store, catalogue) = {
            let (config, data_dir) = (config.clone(), data_dir.clone());
            tokio::task::spawn_blocking(move || open(&config, &data_dir)).await??
        };
        let metrics = Arc::new(Metrics::new()?);
        let (authenticator, certificate) = {
            let (config, metrics) = (config.clone(), metrics.clone());
            // They read files.
            tokio::task::spawn_blocking(move || {
                let authenticator = Authenticator::new(&config.auth, metrics)?;
                anyhow::Ok((authenticator, Certificate::of(&config.api)?))
            })
            .await??
        };
        let acceptor = certificate
            .as_ref()
            .map(Certificate::acceptor)
            .transpose()?;
        let collector = Arc::new(Collector::new(store.clone(), catalogue.clone()));
        let ready = Arc::new(AtomicBool::new(false));
        let stop = CancellationToken::new();
        let peers_stop = CancellationToken::new();

        let api_listener = listen(config.api.listen, "[api] listen").await?;
        let admin_listener = listen(config.admin.listen, "[admin] listen").await?;
        let (api, admin) = (api_listener.local_addr()?, admin_listener.local_addr()?);
        let peers = Peers::start(
            &config,
            store.clone(),
            catalogue.clone(),
            metrics.clone(),
            peers_stop.clone(),
        )
        .await?;
        let peer = peers.as_ref().map(|peers| peers.local_addr()).transpose()?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        write_endpoints(&data_dir, &format!("{scheme}://{api}"), admin, peer)?;

        let state = Arc::new(Api::new(
            catalogue.clone(),
            Content::new(store.clone(), peers.clone()),
            metrics.clone(),
            collector.clone(),
            authenticator,
            config.clone(),
            stop.clone(),
        ));
        let scrubber = Arc::new(Scrubber::new(
            &config.store,
            data_dir.clone(),
            store.clone(),
            peers.clone(),
            metrics.clone(),
        ));
        let routes = admin::router(Arc::new(Admin {
            catalogue,
            store,
            peers: peers.clone(),
            collector: collector.clone(),
            scrubber: scrubber.clone(),
            metrics,
            config: config.clone(),
            ready: ready.clone(),
            started,
        }));
        // An earlier run may have left the chunks of uploads that were cut off.
        collector.wake();
        let delay = Duration::from_secs(config.store.gc_delay_s);
        let mut tasks = vec![
            tokio::spawn(serve_api(
                api_listener,
                acceptor,
                state.clone(),
                stop.clone(),
            )),
            tokio::spawn(serve_admin(admin_listener, routes, stop.clone())),
            tokio::spawn(collector.run(delay, stop.clone())),
            tokio::spawn(scrubber.run(stop.clone())),
        ];
        if let Some(certificate) = certificate {
            tasks.push(tokio::spawn(certificate.watch(stop.clone())));
        }
        ready.store(true, Ordering::SeqCst);
        tracing::info!(
            site = config.site.name,
            %api,
            %admin,
            peer = peer.map(tracing::field::display),
            data_dir = %data_dir.display(),
            version = env!("CARGO_PKG_VERSION"),
            "ready"
        );
        Ok(Self {
            api,
            admin,
            tasks,
            image_api: state,
            peers,
            peers_stop,
            ready,
            stop,
        })
    }

    /// Stops, waiting for requests in flight as long as [`GRACE`] allows.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.ready.store(false, Ordering::SeqCst);
        self.stop.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task ended badly");
            }
        }
        self.image_api.stopped().await;
        // Last, since requests in flight may wait for other sites.
        self.peers_stop.cancel();
        if let Some(peers) = self.peers {
            peers.stopped().await;
        }
        tracing::info!("stopped");
    }
}

fn open(config: &Config, data_dir: &Path) -> anyhow::Result<(Store, Arc<Catalogue>)> {
    let options = Options {
        memory: config.store.memory.0,
        capacity: config.store.capacity.map(|size| size.0),
        reserve: config.store.reserve.0,
        zstd_level: config.store.zstd_level,
        ..Options::default()
    };
    let spaces = [catalogue::SPACE, catalogue::COPIES_SPACE, peer::SPACE];
    let store = Store::open(data_dir, options, &spaces)
        .with_context(|| format!("cannot open the store in {}", data_dir.display()))?;
    let catalogue =
        Catalogue::open(&store, &config.site.name).context("cannot read the catalogue")?;
    Ok((store, Arc::new(catalogue)))
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another {key}"))
}

/// Tells programs on this machine where the APIs are, for ports that the system chose.
fn write_endpoints(
    data_dir: &Path,
    api: &str,
    admin: SocketAddr,
    peer: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let mut endpoints = json!({"api": api, "admin": format!("http://{admin}")});
    if let Some(peer) = peer {
        endpoints["peer"] = peer.to_string().into();
    }
    let path = data_dir.join("endpoints.json");
    let temporary = data_dir.join("endpoints.json.new");
    std::fs::write(&temporary, endpoints.to_string())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

async fn serve_api(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    api: Arc<Api>,
    stop: CancellationToken,
) {
    let idle = Duration::from_secs(api.config.api.idle_timeout_s);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(HEAD_LEN_MAX)
        .keep_alive(true);
    let slots = Arc::new(Semaphore::new(api.config.api.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        // A connection without a slot waits in the listener's queue.
        let accept = async { (slots.clone().acquire_owned().await, listener.accept().await) };
        let (slot, (stream, peer)) = tokio::select! {
            accepted = accept => match accepted {
                (Ok(slot), Ok(accepted)) => (slot, accepted),
                (Err(_), _) => break,
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        if let Err(error) = prepare(&stream, idle) {
            tracing::debug!(%peer, %error, "cannot prepare a connection");
        }
        let api = api.clone();
        let service = service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
        });
        let (http, watcher, acceptor) = (http.clone(), graceful.watcher(), acceptor.clone());
        tokio::spawn(async move {
            let ended = match acceptor {
                None => {
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    watcher.watch(connection).await.map_err(anyhow::Error::from)
                }
                Some(acceptor) => match tokio::time::timeout(idle, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let connection = http.serve_connection(TokioIo::new(stream), service);
                        watcher.watch(connection).await.map_err(anyhow::Error::from)
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(elapsed) => Err(elapsed.into()),
                },
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            "some requests did not end in {} seconds and are cut off",
            GRACE.as_secs()
        );
    }
}

/// Answers are sent at once, and a client that takes nothing of one for `idle` is cut off.
fn prepare(stream: &TcpStream, idle: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let idle_ms = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, idle_ms)?;
    Ok(())
}

async fn serve_admin(listener: TcpListener, routes: axum::Router, stop: CancellationToken) {
    let service = hyper_util::service::TowerToHyperService::new(routes);
    let graceful = GracefulShutdown::new();
    let http = {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(60));
        http
    };
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
    drop(listener);
    // Long streams of an operator do not hold up a stop.
    let _ended = tokio::time::timeout(Duration::from_secs(1), graceful.shutdown()).await;
}
