//! vitrail.
fn main() {}
