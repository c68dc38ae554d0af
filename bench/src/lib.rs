//! Experiments that measure Vitrail beside what people use today, in the same run.
//!
//! Every experiment writes its raw samples as JSON lines before it aggregates anything, so that a
//! table can always be recomputed from what was kept. A peer that cannot be had is reported as
//! missing, never left out in silence.

pub mod api;
pub mod chunks;
pub mod corpus;
mod cpu_clock;
pub mod disk;
pub mod floor;
pub mod image_api;
pub mod journal;
pub mod local;
pub mod machine;
pub mod mesh;
pub mod micro;
pub mod peers;
pub mod plot;
pub mod process;
pub mod report;
pub mod scenario;
pub mod transport;
pub mod wan;
