//! Takes files into a new store and tells what they cost: `store_size DIR FRAME_KIB LEVEL FILE...`
use std::io::Read;
use vitrail_chunkstore::{Ingest, Options, Store};
use vitrail_proto::manifest::FormatFacts;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let options = Options {
        frame_len: args[2].parse::<u32>()? * 1024,
        zstd_level: args[3].parse()?,
        ..Options::default()
    };
    let store = Store::open(args[1].as_ref(), options, &[])?;
    for path in &args[4..] {
        let start = std::time::Instant::now();
        let mut ingest = Ingest::begin(&store)?;
        let mut file = std::fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            ingest.push(&buffer[..n])?;
        }
        let done = ingest.finish(FormatFacts {
            name: "raw".into(),
            virtual_size: None,
        })?;
        println!(
            "{path}: stored {} in {:?}",
            done.stored_bytes,
            start.elapsed()
        );
        store.db().get("meta", b"x")?;
    }
    println!("{:?}", store.stats()?);
    Ok(())
}
