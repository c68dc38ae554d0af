//! Writing a file in order, with holes where the data are zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Block size of common file systems, in bytes: a smaller run of zeros frees nothing.
const BLOCK_LEN: usize = 4096;

/// Appends to a file and leaves out blocks of zeros.
///
/// The file must have nothing beyond `position`, where unwritten bytes then read as zeros. Until
/// [`Self::finish`] it may be shorter than `position`, never longer, and what it holds is right:
/// after a crash of this process the transfer can go on from its length.
#[derive(Debug)]
pub(super) struct SparseWriter {
    file: File,
    position: u64,
}

impl SparseWriter {
    pub(super) fn new(file: File, position: u64) -> Self {
        Self { file, position }
    }

    pub(super) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let zeros = run_len(data, self.position, true);
            self.position += zeros as u64;
            data = &data[zeros..];

            let (written, rest) = data.split_at(run_len(data, self.position, false));
            self.file.write_all_at(written, self.position)?;
            self.position += written.len() as u64;
            data = rest;
        }
        Ok(())
    }

    /// Gives the file its full length, even where it ends in zeros.
    pub(super) fn finish(self) -> io::Result<File> {
        self.file.set_len(self.position)?;
        Ok(self.file)
    }
}

/// Length of the run at the start of `data` whose blocks are all zero (or none of them is).
/// `data` begins at `position` of the file; blocks are aligned there, so the first and the last
/// may be cut short.
fn run_len(data: &[u8], position: u64, zero: bool) -> usize {
    let mut run = 0;
    let mut block = BLOCK_LEN - (position % BLOCK_LEN as u64) as usize;
    while run < data.len() {
        let end = data.len().min(run + block);
        if is_zero(&data[run..end]) != zero {
            break;
        }
        run = end;
        block = BLOCK_LEN;
    }
    run
}

/// Looks at 64 bytes before it decides anything, which the compiler turns into vector code.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(64)
        .all(|line| line.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// 1 MiB of zeros with data in a few odd places.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 1 << 20];
        for (place, len) in [
            (0, 1),
            (4095, 2),
            (70_000, 9000),
            (300_001, 4096),
            (600_000, 1),
        ] {
            image[place..place + len].fill(0xab);
        }
        image
    }

    #[test]
    fn any_cutting_gives_the_same_sparse_file() {
        let image = image();
        for piece_len in [1000, 4096, 5000, 65536, 1 << 20] {
            let file = tempfile::tempfile().unwrap();
            let mut writer = SparseWriter::new(file.try_clone().unwrap(), 0);
            for piece in image.chunks(piece_len) {
                writer.write(piece).unwrap();
            }
            let written = writer.finish().unwrap();
            let mut bytes = vec![1; image.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, image);
            let metadata = written.metadata().unwrap();
            assert_eq!(metadata.len(), image.len() as u64);
            // Two blocks at the start, four for the 9000 bytes, two, one.
            assert!(
                metadata.blocks() * 512 <= 9 * 4096,
                "{} blocks",
                metadata.blocks()
            );
        }
    }

    #[test]
    fn an_unfinished_file_is_never_longer_than_what_came() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = SparseWriter::new(file.try_clone().unwrap(), 0);
        writer.write(&[7; 5000]).unwrap();
        writer.write(&[0; 50_000]).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
        assert_eq!(writer.finish().unwrap().metadata().unwrap().len(), 55_000);
    }
}
