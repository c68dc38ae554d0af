//! Vitrail core without I/O.
