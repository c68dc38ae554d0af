//! The daemon of a Vitrail site.
