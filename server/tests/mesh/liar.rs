//! A member of the mesh that lies: its certificate is right, it speaks the wire protocol, and what it says is up to the
//! test.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use uuid::Uuid;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::clock::{Clock, site_number};
use vitrail_proto::codec::{put_bytes, put_varint};
use vitrail_proto::gossip::{Hello, Key, LogId, Message, Part, PartEntry, VERSION};
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::{MANIFEST_LEN_MAX, Manifest, Segment};
use vitrail_proto::record::{DATA, Data, Record, Value};
use vitrail_proto::runs::Runs;
use vitrail_proto::wire::{
    ALPN, Answer, FetchReply, FetchRequest, PEER_DNS_NAME, Question, StreamKind,
};

use crate::mesh::Authority;

/// Liars' zone. Sites of it ask a liar before they ask others.
pub(crate) const ZONE: &str = "riviera";

/// What comes after a request, in this order.
pub(crate) enum Said {
    /// A message.
    Reply(FetchReply),
    /// A message of any bytes.
    Message(Vec<u8>),
    /// A byte a second of a message that says to be of this length, until nobody listens.
    Trickle(u32),
    /// Only this length of a message, and then nothing.
    Length(u32),
    /// Nothing for so long.
    Pause(Duration),
}

type Script = Arc<dyn Fn(&FetchRequest) -> Vec<Said> + Send + Sync>;

/// A liar and its connection to one site, its victim.
pub(crate) struct Liar {
    pub(crate) name: &'static str,
    connection: Connection,
    gossip: mpsc::UnboundedSender<Vec<u8>>,
    /// The last version used in a log.
    version: AtomicU64,
    asked: Arc<Mutex<Vec<FetchRequest>>>,
    // Last: its end is the end of everything above.
    runtime: Runtime,
}

impl Liar {
    /// Becomes a member that `victim` is connected with, and answers its fetch streams by the script.
    pub(crate) fn join(
        authority: &Authority,
        name: &'static str,
        victim: SocketAddr,
        script: impl Fn(&FetchRequest) -> Vec<Said> + Send + Sync + 'static,
    ) -> Self {
        Self::join_with(authority, name, victim, TransportConfig::default(), script)
    }

    /// As [`Liar::join`], with a transport of its own.
    pub(crate) fn join_with(
        authority: &Authority,
        name: &'static str,
        victim: SocketAddr,
        mut transport: TransportConfig,
        script: impl Fn(&FetchRequest) -> Vec<Said> + Send + Sync + 'static,
    ) -> Self {
        authority.issue(name);
        let runtime = Runtime::new().unwrap();
        transport.keep_alive_interval(Some(Duration::from_secs(5)));
        let mut config = quinn::ClientConfig::new(Arc::new(tls(authority, name)));
        config.transport_config(Arc::new(transport));
        let (connection, (send, recv)) = runtime.block_on(async {
            let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let dial = endpoint.connect_with(config, victim, PEER_DNS_NAME);
            let connection = dial.unwrap().await.unwrap();
            let streams = connection.open_bi().await.unwrap();
            (connection, streams)
        });
        let (gossip, messages) = mpsc::unbounded_channel();
        runtime.spawn(write_gossip(send, messages));
        runtime.spawn(ignore(recv));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(script);
        runtime.spawn(serve(connection.clone(), script, asked.clone()));
        let liar = Self {
            name,
            connection,
            gossip,
            version: AtomicU64::new(now_ms() << 16),
            asked,
            runtime,
        };
        liar.say(&Message::Hello(Hello {
            version_min: VERSION,
            version_max: VERSION,
            name: name.into(),
            boot: now_ms() << 16,
            settled: true,
            digest: [0; 16],
        }));
        liar.tell(vec![
            // The discard port: nobody answers there, so its own connection is the only way to it.
            (Key::Info, info_of(name, now_ms() << 16, &["127.0.0.1:9"])),
            (Key::Links, vec![0]), // none: its neighbours say so themselves
        ]);
        liar
    }

    /// Says a gossip message.
    pub(crate) fn say(&self, message: &Message) {
        self.gossip.send(message.encode()).unwrap();
    }

    /// Tells entries of its own log.
    pub(crate) fn tell(&self, entries: Vec<(Key, Vec<u8>)>) {
        self.tell_as(self.name, entries);
    }

    /// Tells entries of the log of any site.
    pub(crate) fn tell_as(&self, site: &str, entries: Vec<(Key, Vec<u8>)>) {
        self.tell_at(site, now_ms(), entries);
    }

    /// Tells entries of the log of any site, written at this time or after what was told before.
    pub(crate) fn tell_at(&self, site: &str, at_ms: u64, entries: Vec<(Key, Vec<u8>)>) {
        let mut last = self.version.load(Ordering::Relaxed).max(at_ms << 16);
        let family = entries[0].0.family();
        let entries: Vec<PartEntry> = entries
            .into_iter()
            .map(|(key, value)| {
                last += 1;
                let version = last;
                PartEntry {
                    key,
                    version,
                    value,
                }
            })
            .collect();
        // A clock ahead is for this message only.
        if at_ms <= now_ms() {
            self.version.store(last, Ordering::Relaxed);
        }
        let log = LogId {
            site: site_number(site),
            family,
        };
        let part = Part {
            log,
            // A gap would be asked for instead of believed.
            from: 0,
            to: last,
            entries,
        };
        self.say(&Message::Delta(vec![part]));
    }

    /// Claims to hold a manifest whole.
    pub(crate) fn claim(&self, manifest: ManifestId) {
        self.tell(vec![(Key::Holding(manifest), vec![2])]);
    }

    /// Claims to hold these chunks of a manifest.
    pub(crate) fn claim_part(&self, manifest: ManifestId, chunks: &Runs) {
        let mut value = vec![1];
        chunks.encode(&mut value);
        self.tell(vec![(Key::Holding(manifest), value)]);
    }

    /// Makes an active image that names these data; its id.
    pub(crate) fn write_image(&self, data: &Data) -> String {
        let id = Uuid::from_u128(rand::random());
        let stamp = Clock::new(self.name).tick(now_ms());
        let mut record = Record::new(id, stamp);
        let text = |text: &str| Some(Value::Text(text.into()));
        for (key, value) in [
            (DATA, Some(Value::Data(data.clone()))),
            ("status", text("active")),
            ("disk_format", text("raw")),
            ("container_format", text("bare")),
        ] {
            record.set(key, value, stamp);
        }
        self.tell(vec![(Key::Image(id), record.encode())]);
        id.to_string()
    }

    /// What it was asked on fetch streams.
    pub(crate) fn asked(&self) -> Vec<FetchRequest> {
        self.asked.lock().unwrap().clone()
    }

    /// An image's record and manifest as an honest site has them.
    pub(crate) fn look_up(
        authority: &Authority,
        name: &'static str,
        site: SocketAddr,
        image: &str,
    ) -> (Record, Manifest) {
        let honest = Self::join(authority, name, site, |_| vec![]);
        honest.runtime.block_on(async {
            let id = Uuid::parse_str(image).unwrap();
            let question = Question::Record(id).encode();
            let answer = ask(&honest.connection, StreamKind::Ask, &question).await;
            let Answer::Record(bytes) = Answer::decode(&answer).unwrap() else {
                panic!("no record");
            };
            let record = Record::decode(&bytes).unwrap();
            let Some(Value::Data(data)) = record.get(DATA) else {
                panic!("an image without data");
            };
            let request = FetchRequest::WantManifest(data.manifest).encode();
            let reply = ask(&honest.connection, StreamKind::Fetch, &request).await;
            let FetchReply::Manifest(bytes) = FetchReply::decode(&reply).unwrap() else {
                panic!("no manifest");
            };
            let manifest = Manifest::decode(&bytes).unwrap();
            (record, manifest)
        })
    }
}

/// An image's chunks, by index.
pub(crate) struct Chunks(Vec<VerifiedChunk>);

impl Chunks {
    pub(crate) fn of(manifest: &Manifest, image: &[u8]) -> Self {
        let mut at = 0;
        let mut chunks = Vec::new();
        for segment in manifest.segments() {
            let end = at + segment.len() as usize;
            if let Segment::Chunk { id, .. } = segment {
                let bytes = Bytes::copy_from_slice(&image[at..end]);
                chunks.push(VerifiedChunk::verify(*id, bytes).unwrap());
            }
            at = end;
        }
        Self(chunks)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that begin at this byte of the data, or after it.
    pub(crate) fn from(&self, byte: u64) -> Runs {
        let mut at = 0;
        let starts = self.0.iter().map(|chunk| {
            at += u64::from(chunk.len());
            at - u64::from(chunk.len())
        });
        let late = (0..).zip(starts).filter(|(_, start)| *start >= byte);
        Runs::of(late.map(|(index, _)| index))
    }

    pub(crate) fn of_runs(&self, runs: &Runs) -> Vec<VerifiedChunk> {
        runs.iter().map(|i| self.0[i as usize].clone()).collect()
    }
}

/// What an honest holder of everything says to what is no `get`.
pub(crate) fn honest(request: &FetchRequest, manifest: &[u8], chunks: usize) -> Vec<Said> {
    match request {
        FetchRequest::WantManifest(_) => {
            let bytes = Bytes::copy_from_slice(manifest);
            vec![Said::Reply(FetchReply::Manifest(bytes))]
        }
        FetchRequest::Open(_) => {
            vec![Said::Reply(FetchReply::Have(Runs::all(chunks as u32)))]
        }
        _ => vec![],
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

/// The value of an info entry, as `GOSSIP.md` lays it out.
pub(crate) fn info_of(name: &str, boot: u64, addresses: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in [name, ZONE, "liar"] {
        put_bytes(&mut out, text.as_bytes());
    }
    out.extend_from_slice(&boot.to_le_bytes());
    out.extend_from_slice(&0u64.to_le_bytes()); // nothing is void
    put_varint(&mut out, addresses.len() as u64);
    for address in addresses {
        put_bytes(&mut out, address.as_bytes());
    }
    out
}

fn tls(authority: &Authority, name: &str) -> QuicClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority.file("ca.crt")).unwrap();
    roots.add(root).unwrap();
    let certificate = CertificateDer::from_pem_file(authority.file(&format!("{name}.crt")));
    let key = PrivateKeyDer::from_pem_file(authority.file(&format!("{name}.key")));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate.unwrap()], key.unwrap())
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    QuicClientConfig::try_from(config).unwrap()
}

async fn write_gossip(mut send: SendStream, mut messages: mpsc::UnboundedReceiver<Vec<u8>>) {
    send.write_all(&[StreamKind::Gossip.number()])
        .await
        .unwrap();
    while let Some(message) = messages.recv().await {
        if write(&mut send, &message).await.is_err() {
            return; // cut off, which is what some tests wait for
        }
    }
}

/// Takes what comes, so that the sender is not held up.
async fn ignore(mut recv: RecvStream) {
    while let Ok(Some(_)) = recv.read_chunk(usize::MAX, false).await {}
}

async fn serve(connection: Connection, script: Script, asked: Arc<Mutex<Vec<FetchRequest>>>) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let (script, asked) = (script.clone(), asked.clone());
        tokio::spawn(async move {
            let mut kind = [0];
            if recv.read_exact(&mut kind).await.is_err() {
                return;
            }
            if kind[0] != StreamKind::Fetch.number() {
                return ignore(recv).await;
            }
            while let Some(message) = read(&mut recv).await {
                let request = FetchRequest::decode(&message).unwrap();
                let answer = script(&request);
                asked.lock().unwrap().push(request);
                for said in answer {
                    if speak(&mut send, said).await.is_err() {
                        return; // the victim has stopped the stream
                    }
                }
            }
        });
    }
}

async fn speak(send: &mut SendStream, said: Said) -> Result<(), quinn::WriteError> {
    match said {
        Said::Reply(reply) => write(send, &reply.encode()).await,
        Said::Message(message) => write(send, &message).await,
        Said::Length(len) => send.write_all(&len.to_le_bytes()).await,
        Said::Pause(time) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Said::Trickle(len) => {
            send.write_all(&len.to_le_bytes()).await?;
            loop {
                send.write_all(&[1]).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn write(send: &mut SendStream, message: &[u8]) -> Result<(), quinn::WriteError> {
    send.write_all(&(message.len() as u32).to_le_bytes())
        .await?;
    send.write_all(message).await
}

async fn read(recv: &mut RecvStream) -> Option<Bytes> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.ok()?;
    let len = u32::from_le_bytes(len) as usize;
    assert!(len as u64 <= MANIFEST_LEN_MAX, "a message of {len} bytes");
    let mut message = vec![0; len];
    recv.read_exact(&mut message).await.ok()?;
    Some(message.into())
}

async fn ask(connection: &Connection, kind: StreamKind, message: &[u8]) -> Bytes {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[kind.number()]).await.unwrap();
    write(&mut send, message).await.unwrap();
    read(&mut recv).await.unwrap()
}

/// A transport on which the victim can open no stream.
pub(crate) fn no_streams() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}
