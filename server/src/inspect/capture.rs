//! Parts of a stream that are kept while the rest passes.

/// The `want` bytes that follow after `skip` others. Memory grows with what has arrived, up to
/// `want`, never ahead of it.
#[derive(Debug)]
pub(super) struct Capture {
    skip: u64,
    want: usize,
    bytes: Vec<u8>,
}

impl Capture {
    pub(super) fn new(skip: u64, want: usize) -> Self {
        Self {
            skip,
            want,
            bytes: Vec::new(),
        }
    }

    /// Takes from the next `piece` of the stream what belongs here; returns what follows it.
    pub(super) fn take<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let skipped = usize::try_from(self.skip).map_or(piece.len(), |skip| skip.min(piece.len()));
        self.skip -= skipped as u64;
        let piece = &piece[skipped..];
        let taken = piece.len().min(self.want - self.bytes.len());
        let (taken, rest) = piece.split_at(taken);
        self.bytes.extend_from_slice(taken);
        rest
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == self.want
    }

    /// What has been captured so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The last `N` bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail<const N: usize> {
    bytes: Vec<u8>,
}

impl<const N: usize> Tail<N> {
    pub(super) fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(N)..];
        let surplus = (self.bytes.len() + piece.len()).saturating_sub(N);
        self.bytes.drain(..surplus);
        self.bytes.extend_from_slice(piece);
    }

    /// Fewer than `N` bytes only if the stream was that short.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
