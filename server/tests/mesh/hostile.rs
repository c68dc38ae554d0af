//! Members that lie: does every pull end well, from others or with a reason that names the liar, and is nothing false
//! kept? The images come from paris, lyon pulls, and nice lies; nice is in lyon's zone, so it is asked first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use vitrail_chunkstore::frame::Encoder;
use vitrail_proto::chunk::{CHUNK_LEN_MAX, VerifiedChunk};
use vitrail_proto::clock::Clock;
use vitrail_proto::codec::put_varint;
use vitrail_proto::frame::{ChunkEntry, Codec, FrameHead};
use vitrail_proto::gossip::Key;
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::{ChunkerParams, FormatFacts, IMAGE_SIZE_MAX, Manifest, Segment};
use vitrail_proto::record::{Data, Record};
use vitrail_proto::runs::Runs;
use vitrail_proto::wire::{FetchReply, FetchRequest};

use crate::liar::{Chunks, Liar, Said, ZONE, honest, info_of, no_streams, now_ms};
use crate::mesh::{Mesh, receipts, wait, wait_for_image};
use crate::site::{Client, Site, noise};

/// Enough that more than one holder is asked for some of it.
const IMAGE_LEN: usize = 8_000_000;

/// An image at paris of which lyon has nothing.
struct Stage {
    mesh: Mesh,
    image: Vec<u8>,
    id: String,
    record: Record,
    manifest: Manifest,
    chunks: Arc<Chunks>,
}

impl Stage {
    fn set() -> Self {
        let mut mesh = Mesh::start(&["paris"]);
        mesh.join_with("lyon", |config| config.site.zone = Some(ZONE.into()));
        let image = noise(40, IMAGE_LEN);
        let id = mesh.sites[0].image(&image);
        wait_for_image(&mesh.sites[1], &id);
        let paris = mesh.sites[0].config.peer.listen;
        let (record, manifest) = Liar::look_up(&mesh.authority, "scout", paris, &id);
        let chunks = Arc::new(Chunks::of(&manifest, &image));
        Self {
            mesh,
            image,
            id,
            record,
            manifest,
            chunks,
        }
    }

    /// Lyon forgets the manifest, which it fetched as soon as it heard of the image.
    fn forget_manifest(&mut self) {
        self.mesh.sites[1].restart(|_| {});
        wait("lyon is back", || is_up(self.lyon(), "paris"));
    }

    fn lyon(&self) -> &Site {
        &self.mesh.sites[1]
    }

    /// Nice comes to lyon and claims to hold the image.
    fn lie(&self, script: impl Fn(&FetchRequest) -> Vec<Said> + Send + Sync + 'static) -> Liar {
        let liar = Liar::join(
            &self.mesh.authority,
            "nice",
            self.lyon().config.peer.listen,
            script,
        );
        self.claim(&liar);
        liar
    }

    fn claim(&self, liar: &Liar) {
        liar.claim(self.manifest.id());
        wait("the claim is known", || {
            holds(self.lyon(), liar.name, &self.id)
        });
    }

    /// Nice lies about chunks; about the manifest it tells the truth.
    fn lie_about_chunks(
        &self,
        script: impl Fn(u32, &Runs, &Chunks) -> Vec<Said> + Send + Sync + 'static,
    ) -> Liar {
        let (chunks, manifest) = (self.chunks.clone(), self.manifest.encode());
        self.lie(move |request| match request {
            FetchRequest::Get {
                request,
                chunks: runs,
            } => script(*request, runs, &chunks),
            other => honest(other, &manifest, chunks.len()),
        })
    }

    /// Pulls at lyon. Whatever nice did, the bytes are right, and nothing else was kept. The receipt.
    fn pull_despite(&self, liar: &Liar) -> Value {
        let lyon = self.lyon();
        assert!(lyon.download(&self.id) == self.image);
        wait("the pull has ended", || {
            !receipts(lyon, &self.id).is_empty()
        });
        let receipt = receipts(lyon, &self.id).remove(0);
        assert_eq!(receipt["outcome"], "complete", "{receipt}");
        assert!(!liar.asked().is_empty(), "nobody asked the liar");
        assert_eq!(lyon.verify()["ok"], true);
        let stored = lyon.store()["unique_bytes"].as_u64().unwrap();
        assert_eq!(stored, IMAGE_LEN as u64, "only the image is stored");
        receipt
    }

    /// As [`Stage::pull_despite`]; nice is left for a reason that holds `why`.
    fn pull_and_name(&self, liar: &Liar, why: &str) {
        let receipt = self.pull_despite(liar);
        let dropped = receipt["dropped"].as_array().unwrap();
        let named = |reason: &Value| {
            let reason = reason.as_str().unwrap();
            reason.starts_with("nice: ") && reason.contains(why)
        };
        assert!(dropped.iter().any(named), "{receipt}");
    }
}

fn frame(request: u32, chunks: &[VerifiedChunk]) -> Said {
    let frame = Encoder::new(1).unwrap().encode(chunks).unwrap();
    let frame = frame.bytes.into();
    Said::Reply(FetchReply::Frame { request, frame })
}

/// A frame with a head that promises these chunks, whatever the body is.
fn promise(request: u32, chunks: &[VerifiedChunk], codec: Codec, body: &[u8]) -> Said {
    let entries = chunks.iter().map(|chunk| ChunkEntry {
        id: chunk.id(),
        len: chunk.len(),
    });
    let head = FrameHead {
        codec,
        chunks: entries.collect(),
        references: vec![],
        body_len: body.len() as u32,
    };
    let mut frame = Vec::new();
    head.encode(&mut frame);
    frame.extend_from_slice(body);
    let frame = frame.into();
    Said::Reply(FetchReply::Frame { request, frame })
}

fn done(request: u32, missing: Runs) -> Said {
    Said::Reply(FetchReply::Done { request, missing })
}

/// Whether one site takes another for a holder of all of an image.
fn holds(client: &Client, site: &str, id: &str) -> bool {
    let answer = client.operator("GET", &format!("/v1/sites/{site}")).send();
    answer.status == 200 && {
        let site = answer.json();
        let held = |image: &Value| image["id"] == id && image["complete"] == true;
        site["up"] == true && site["images"].as_array().unwrap().iter().any(held)
    }
}

fn is_up(client: &Client, site: &str) -> bool {
    let answer = client.operator("GET", &format!("/v1/sites/{site}")).send();
    answer.status == 200 && answer.json()["up"] == true
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|request, runs, chunks| {
        let chunks = chunks.of_runs(runs);
        let mut body: Vec<u8> = chunks.iter().flat_map(|c| c.bytes().to_vec()).collect();
        body[1000] ^= 1;
        let frame = promise(request, &chunks, Codec::Raw, &body);
        vec![frame, done(request, Runs::new())]
    });
    stage.pull_and_name(&liar, "bad frame");
}

#[test]
fn right_bytes_under_the_name_of_others_are_thrown_away() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|request, runs, chunks| {
        let chunks = chunks.of_runs(runs);
        let body = noise(41, chunks.iter().map(|c| c.len() as usize).sum());
        vec![promise(request, &chunks, Codec::Raw, &body)]
    });
    stage.pull_and_name(&liar, "bad frame");
}

#[test]
fn right_chunks_that_nobody_asked_for_are_thrown_away() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|request, _, _| {
        let chunk = VerifiedChunk::hash(noise(42, 100_000).into()).unwrap();
        vec![frame(request, &[chunk]), done(request, Runs::new())]
    });
    stage.pull_and_name(&liar, "nobody asked for");
}

#[test]
fn a_bomb_does_not_go_off() {
    let stage = Stage::set();
    let zeros = VerifiedChunk::hash(vec![0; CHUNK_LEN_MAX as usize].into()).unwrap();
    let bomb = Encoder::new(1).unwrap().encode(&vec![zeros; 1024]).unwrap();
    // 256 MiB in a few kB.
    let body = bomb.bytes[bomb.bytes.len() - bomb.head.body_len as usize..].to_vec();
    assert!(body.len() < 64 * 1024 && bomb.head.codec == Codec::Zstd);
    let liar = stage.lie_about_chunks(move |request, runs, chunks| {
        vec![promise(request, &chunks.of_runs(runs), Codec::Zstd, &body)]
    });
    stage.pull_and_name(&liar, "bad frame");
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|_, _, _| vec![]);
    stage.pull_despite(&liar);
}

#[test]
fn who_sends_a_byte_a_second_is_not_waited_for() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|_, _, _| vec![Said::Trickle(500_000)]);
    stage.pull_despite(&liar);
}

#[test]
fn who_takes_no_streams_is_not_waited_for() {
    let stage = Stage::set();
    let lyon = stage.lyon().config.peer.listen;
    let authority = &stage.mesh.authority;
    let liar = Liar::join_with(authority, "nice", lyon, no_streams(), |_| vec![]);
    stage.claim(&liar);
    assert!(stage.lyon().download(&stage.id) == stage.image);
    assert_eq!(stage.lyon().verify()["ok"], true);
}

#[test]
fn who_is_done_without_having_sent_anything_is_left() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|request, _, _| vec![done(request, Runs::new())]);
    stage.pull_and_name(&liar, "unanswered");
}

#[test]
fn who_lacks_what_it_claimed_is_not_asked_for_it_again() {
    let stage = Stage::set();
    let liar = stage.lie_about_chunks(|request, runs, chunks| {
        let all = Runs::all(chunks.len() as u32);
        vec![
            done(request, runs.clone()),
            Said::Reply(FetchReply::Have(all)),
        ]
    });
    stage.pull_despite(&liar);
    let mut asked = HashMap::new();
    for request in liar.asked() {
        if let FetchRequest::Get { chunks, .. } = request {
            chunks
                .iter()
                .for_each(|i| *asked.entry(i).or_insert(0) += 1);
        }
    }
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");
}

#[test]
fn messages_out_of_order_end_a_holders_part() {
    let stage = Stage::set();
    let manifest = stage.manifest.encode();
    let liar = stage.lie_about_chunks(move |_, _, _| {
        let manifest = Bytes::copy_from_slice(&manifest);
        vec![Said::Reply(FetchReply::Manifest(manifest))]
    });
    stage.pull_and_name(&liar, "a manifest that nobody asked for");
}

#[test]
fn messages_that_are_none_end_a_holders_part() {
    for (said, why) in [
        (vec![Said::Message(vec![77, 1, 2])], "unknown"),
        (vec![Said::Length(u32::MAX)], "allowed is"),
    ] {
        let stage = Stage::set();
        let said = std::sync::Mutex::new(said);
        let liar = stage.lie_about_chunks(move |_, _, _| std::mem::take(&mut said.lock().unwrap()));
        stage.pull_and_name(&liar, why);
    }
}

#[test]
fn a_manifest_that_does_not_come_is_not_waited_for() {
    let mut stage = Stage::set();
    stage.forget_manifest();
    let liar = stage.lie(|_| vec![]);
    stage.pull_despite(&liar);
}

#[test]
fn a_manifest_of_a_byte_a_second_is_not_waited_for() {
    let mut stage = Stage::set();
    stage.forget_manifest();
    let liar = stage.lie(|_| vec![Said::Trickle(400_000_000)]);
    stage.pull_despite(&liar);
}

/// Nice makes an image of its own and sends `sent` as its manifest; a client is told `why` it cannot be had.
fn refuse_and_name(said: Data, sent: Vec<u8>, why: &str) {
    let stage = Stage::set();
    let liar = stage.lie(move |request| honest(request, &sent, 0));
    let image = liar.write_image(&said);
    liar.claim(said.manifest);
    wait("the claim is known", || holds(stage.lyon(), "nice", &image));
    let answer = stage.lyon().get(&format!("/v2/images/{image}/file"));
    assert_eq!(answer.status, 503, "{}", answer.text());
    let text = answer.text();
    assert!(text.contains("nice") && text.contains(why), "{text}");
    // Nobody can be made to store what is not what its name says.
    assert_eq!(stage.lyon().verify()["ok"], true);
}

#[test]
fn another_manifest_is_not_taken() {
    let (said, sent) = (of_hole(1 << 20), of_hole(1 << 30));
    refuse_and_name(data(said.id(), 1 << 20), sent.encode(), "another manifest");
}

#[test]
fn a_manifest_of_two_to_the_sixty_bytes_is_not_taken() {
    let largest = of_hole(IMAGE_SIZE_MAX).encode();
    let huge = replace(&largest, &varint(IMAGE_SIZE_MAX), &varint(1 << 60));
    refuse_and_name(data(ManifestId::of(&huge), 1 << 30), huge, "image size");
}

#[test]
fn a_manifest_that_is_not_what_the_record_says_is_not_read() {
    let manifest = of_hole(1 << 20);
    refuse_and_name(data(manifest.id(), 1 << 30), manifest.encode(), "record");
}

#[test]
fn a_record_of_two_to_the_sixty_bytes_ends_the_liars_gossip() {
    let stage = Stage::set();
    let liar = stage.lie(|_| vec![]);
    let image = liar.write_image(&data(of_hole(1).id(), 1 << 60));
    wait("nice is hung up on", || !is_up(stage.lyon(), "nice"));
    assert_eq!(stage.lyon().get(&format!("/v2/images/{image}")).status, 404);
    assert!(stage.lyon().download(&stage.id) == stage.image);
}

#[test]
fn a_clock_a_year_ahead_is_not_believed() {
    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
    let stage = Stage::set();
    let liar = stage.lie(|_| vec![]);
    let lyon = stage.lyon();
    // Both would win over everything for a year.
    let ahead = now_ms() + YEAR_MS;
    let mut theirs = stage.record.clone();
    theirs.delete(Clock::new("nice").tick(ahead));
    liar.tell_at(
        "nice",
        now_ms(),
        vec![(Key::Image(theirs.id), theirs.encode())],
    );
    let none = (Key::Holding(stage.manifest.id()), vec![0]);
    liar.tell_at("paris", ahead, vec![none]);
    // What nice says in its right mind is still taken.
    let later = liar.write_image(&data(of_hole(1).id(), 1));
    wait("the image is known", || {
        lyon.get(&format!("/v2/images/{later}")).status == 200
    });
    assert!(holds(lyon, "paris", &stage.id));
    assert!(lyon.download(&stage.id) == stage.image);
}

#[test]
fn what_is_said_of_other_sites_is_put_right_by_them() {
    let stage = Stage::set();
    let liar = stage.lie(|_| vec![]);
    let lyon = stage.lyon();
    let manifest = of_hole(1 << 20).id();
    let image = liar.write_image(&data(manifest, 1 << 20));
    liar.tell_as(
        "paris",
        vec![
            (Key::Holding(stage.manifest.id()), vec![0]),
            (Key::Holding(manifest), vec![2]),
        ],
    );
    // Whether lyon believes it at this moment or not: the pull ends well.
    stage.pull_despite(&liar);
    wait("paris has denied it", || {
        holds(lyon, "paris", &stage.id) && !holds(lyon, "paris", &image)
    });
}

#[test]
fn an_invented_namesake_does_not_drive_a_site_out() {
    let stage = Stage::set();
    let paris = &stage.mesh.sites[0];
    // At nobody's address, and at that of paris itself.
    let own = paris.config.peer.listen.to_string();
    let info = info_of("paris", u64::MAX, &["127.0.0.1:9", &own]);
    let liar = stage.lie(|_| vec![]);
    liar.tell_as("paris", vec![(Key::Info, info)]);
    wait("paris has put it right", || {
        holds(stage.lyon(), "paris", &stage.id) && addresses(stage.lyon(), "paris") == [own.clone()]
    });
    // Long enough for paris to have found nobody.
    std::thread::sleep(Duration::from_secs(12));
    assert!(is_up(paris, "lyon"));
    assert!(is_up(stage.lyon(), "paris"));
}

fn addresses(client: &Client, site: &str) -> Vec<String> {
    let answer = client.operator("GET", &format!("/v1/sites/{site}")).send();
    let site = answer.expect(200).json();
    let addresses = site["addresses"].as_array().unwrap().iter();
    addresses.map(|a| a.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_said_of_lyon_itself_is_not_believed_by_lyon() {
    let stage = Stage::set();
    let liar = stage.lie(|_| vec![]);
    let lyon = stage.lyon();
    liar.tell_as("lyon", vec![(Key::Holding(stage.manifest.id()), vec![2])]);
    let told = liar.write_image(&data(of_hole(1).id(), 1));
    wait("lyon has heard it all", || {
        lyon.get(&format!("/v2/images/{told}")).status == 200
    });
    assert!(!holds(lyon, "lyon", &stage.id));
    assert!(!holds(&stage.mesh.sites[0], "lyon", &stage.id));
}

/// A manifest of one hole.
fn of_hole(len: u64) -> Manifest {
    let chunker = ChunkerParams {
        algorithm: 1,
        len_min: 16 << 10,
        len_avg: 64 << 10,
        len_max: 256 << 10,
        hole_min: 4 << 10,
    };
    let format = FormatFacts {
        name: "raw".into(),
        virtual_size: None,
    };
    Manifest::new(
        chunker,
        [0; 16],
        [0; 64],
        format,
        vec![Segment::Hole { len }],
    )
    .unwrap()
}

fn data(manifest: ManifestId, size: u64) -> Data {
    Data {
        manifest,
        size,
        virtual_size: None,
        md5: [0; 16],
        sha512: [0; 64],
    }
}

fn varint(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number);
    out
}

/// `bytes` with every `old` made `new`.
fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(old.len()).position(|window| window == old) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    out.extend_from_slice(rest);
    out
}
