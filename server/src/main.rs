//! vitraild.
fn main() {}
