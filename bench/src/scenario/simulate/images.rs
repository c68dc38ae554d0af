//! The chunks of the images of a scenario, and what of each travels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use vitrail_chunkstore::Options;
use vitrail_chunkstore::chunker::{Chunker, PARAMS, Piece};
use vitrail_chunkstore::frame::Encoder;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_sim::swarm::Chunk;

use crate::scenario::file::{Scenario, Work};
use crate::scenario::images::ImageFile;

/// All images of a scenario, cut by the product's chunker.
///
/// Frames hold consecutive chunks that no image before had, encoded as the product encodes them, and each chunk travels as
/// its part of a frame. Bases come first, so that what an update adds is framed by itself.
pub(super) fn cut(
    scenario: &Scenario,
    files: &BTreeMap<String, ImageFile>,
) -> Result<BTreeMap<String, Vec<Chunk>>> {
    let is_base: BTreeSet<&String> = scenario
        .workloads
        .iter()
        .filter_map(|workload| match &workload.work {
            Work::Pull { base, .. } | Work::Preseed { base, .. } => base.as_ref(),
            Work::Storm { .. } => None,
        })
        .collect();
    let mut order: Vec<&String> = files.keys().collect();
    order.sort_by_key(|name| !is_base.contains(name));
    let mut cutter = Cutter::new()?;
    let mut images = BTreeMap::new();
    for name in order {
        let path = &files[name].raw;
        let chunks = cutter
            .image(path)
            .with_context(|| format!("cut {}", path.display()))?;
        images.insert(name.clone(), chunks);
    }
    Ok(images)
}

struct Cutter {
    encoder: Encoder,
    frame_len: u32,
    /// What of each chunk travels, by the first bytes of its id.
    wire: BTreeMap<u64, u32>,
    frame: Vec<VerifiedChunk>,
}

impl Cutter {
    fn new() -> Result<Self> {
        let default = Options::default();
        Ok(Self {
            encoder: Encoder::new(default.zstd_level)?,
            frame_len: default.frame_len,
            wire: BTreeMap::new(),
            frame: Vec::new(),
        })
    }

    fn image(&mut self, path: &Path) -> Result<Vec<Chunk>> {
        let mut file = File::open(path)?;
        let mut chunker = Chunker::new(PARAMS);
        let mut block = vec![0; 1 << 20];
        let (mut pieces, mut image) = (Vec::new(), Vec::new());
        loop {
            let len = file.read(&mut block)?;
            if len == 0 {
                break;
            }
            chunker.push(&block[..len], &mut |piece| pieces.push(piece));
            self.take(&mut pieces, &mut image)?;
        }
        chunker.finish(&mut |piece| pieces.push(piece));
        self.take(&mut pieces, &mut image)?;
        self.close()?;
        for chunk in &mut image {
            chunk.wire = self.wire[&chunk.name];
        }
        Ok(image)
    }

    fn take(&mut self, pieces: &mut Vec<Piece>, image: &mut Vec<Chunk>) -> Result<()> {
        for piece in pieces.drain(..) {
            let Piece::Data(bytes) = piece else { continue };
            let chunk = VerifiedChunk::hash(bytes)?;
            let (name, len) = (chunk.id().prefix(), chunk.len());
            image.push(Chunk { name, len, wire: 0 });
            if self.wire.contains_key(&name) {
                continue;
            }
            let frame_len: u32 = self.frame.iter().map(VerifiedChunk::len).sum();
            if frame_len + len > self.frame_len {
                self.close()?;
            }
            self.wire.insert(name, 0);
            self.frame.push(chunk);
        }
        Ok(())
    }

    /// Encodes the frame, and divides its bytes among its chunks by their lengths.
    fn close(&mut self) -> Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let mut bytes = self.encoder.encode(&self.frame)?.bytes.len() as u64;
        let mut raw: u64 = self.frame.iter().map(|chunk| u64::from(chunk.len())).sum();
        for chunk in self.frame.drain(..) {
            let len = u64::from(chunk.len());
            let part = bytes * len / raw;
            (bytes, raw) = (bytes - part, raw - len);
            self.wire.insert(chunk.id().prefix(), part as u32);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_travels_as_what_it_adds() {
        let dir = tempfile::tempdir().unwrap();
        let noise = |seed: u64, len: usize| -> Vec<u8> {
            let mut random = vitrail_proto::random::Random::new(seed);
            (0..len).map(|_| random.number() as u8 & 15).collect()
        };
        let (common, own) = (noise(1, 4 << 20), noise(2, 1 << 20));
        let mut cutter = Cutter::new().unwrap();
        let mut cut = |name: &str, parts: &[&[u8]]| {
            let path = dir.path().join(name);
            std::fs::write(&path, parts.concat()).unwrap();
            cutter.image(&path).unwrap()
        };
        let base = cut("base", &[&common]);
        let update = cut("update", &[&common, &[0; 1 << 20], &own]);
        let wire = |chunks: &[Chunk]| chunks.iter().map(|c| u64::from(c.wire)).sum::<u64>();
        let len: u32 = base.iter().map(|chunk| chunk.len).sum();
        assert_eq!(len as usize, common.len());
        // Four of eight bits say something.
        let ratio = wire(&base) as f64 / f64::from(len);
        assert!((0.49..0.6).contains(&ratio), "{ratio}");
        let known: BTreeSet<u64> = base.iter().map(|chunk| chunk.name).collect();
        let is_new = |chunk: &&Chunk| !known.contains(&chunk.name);
        let new: Vec<Chunk> = update.iter().filter(is_new).copied().collect();
        // Beside its own bytes, the chunk in which the common part ends.
        let ratio = wire(&new) as f64 / own.len() as f64;
        assert!((0.49..0.75).contains(&ratio), "{ratio}");
    }
}
