//! Content-addressed chunk store.
