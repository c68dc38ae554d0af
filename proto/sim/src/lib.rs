//! Vitrail's state machines in virtual time.
//!
//! [`network`] moves bytes between nodes and knows nothing of what they mean: connections, delays, rates, cuts, crashes,
//! and what all of it costs on the wire. [`mesh`] runs the gossip of many sites over it, each with a catalogue and a disk,
//! and keeps the truth beside them. [`faults`] draws a history of writes and mishaps from a seed; [`check`] says
//! whether the sites have ended where they should. [`pull`] runs the planner of one pull against holders that fail,
//! [`swarm`] the planners of many sites that pull from each other.
//!
//! Equal seeds give equal histories, byte for byte. A failing seed replays with `VITRAIL_SIM_SEED=n`.

pub mod check;
pub mod faults;
pub mod mesh;
pub mod network;
pub mod pull;
pub mod swarm;
