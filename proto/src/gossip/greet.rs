//! Hellos: who it is, which of two connections stays, whether it is ourselves, and who has been away.

use super::message::{Hello, VERSION};
use super::receive::Fault;
use super::{Catalogue, ConnectionId, Gossip, MEMORY_MS, Now};

impl Gossip {
    /// The first message of a connection.
    pub(super) fn receive_hello(
        &mut self,
        connection: ConnectionId,
        hello: Hello,
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<(), Fault> {
        let Some(neighbour) = self.neighbours.get(&connection) else {
            return Ok(());
        };
        if hello.version_min > VERSION || hello.version_max < VERSION {
            return Err(Fault::Version(hello.version_min, hello.version_max));
        }
        if hello.name != neighbour.name {
            return Err(Fault::Name(hello.name));
        }
        let (site, dialled) = (neighbour.site, neighbour.dialled.is_some());
        if site == self.own.number {
            return self.receive_own_name(connection, hello.boot, now);
        }
        if let Some(other) = self.connection_with(site) {
            // One of two stays: that to the later start, the later one in one direction, or that which the lower
            // number dialled.
            let old = &self.neighbours[&other];
            let keep = old.boot != Some(hello.boot)
                || old.dialled.is_some() == dialled
                || dialled == (self.own.number < site);
            let reason = format!(
                "{} has two connections with {}",
                self.config.name, hello.name
            );
            self.hang_up(if keep { other } else { connection }, reason, now);
        }
        let Some(neighbour) = self.neighbours.get_mut(&connection) else {
            return Ok(());
        };
        neighbour.boot = Some(hello.boot);
        self.links_changed(now);
        self.meet(now, catalogue);
        if hello.digest == self.state.digest(now.unix_ms) {
            self.receive_same(hello.settled, now, catalogue)?;
        } else if self.own.number < site
            && let Some(neighbour) = self.neighbours.get_mut(&connection)
        {
            neighbour.due.buckets = true;
        }
        Ok(())
    }

    /// Somebody with our own certificate, which may be ourselves.
    fn receive_own_name(
        &mut self,
        connection: ConnectionId,
        boot: u64,
        now: Now,
    ) -> Result<(), Fault> {
        if boot > self.own.boot {
            self.outrank(Vec::new(), now);
        } else if boot < self.own.boot {
            // Our hello tells the other that it has lost.
            if let Some(neighbour) = self.neighbours.get_mut(&connection) {
                neighbour.boot = Some(boot);
            }
        } else {
            let reason = format!("{} has dialled itself", self.config.name);
            self.hang_up(connection, reason, now);
        }
        Ok(())
    }

    pub(super) fn receive_same(
        &mut self,
        settled: bool,
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<(), Fault> {
        if settled {
            self.settle(now, catalogue)?;
        }
        Ok(())
    }

    /// A hello has come: after a long absence this is the return.
    fn meet(&mut self, now: Now, catalogue: &dyn Catalogue) {
        let away = self
            .last_contact_ms
            .filter(|contact_ms| contact_ms + MEMORY_MS < now.unix_ms);
        if let Some(contact_ms) = away.filter(|_| self.is_settled()) {
            self.begin_return(contact_ms, now, catalogue);
        }
        self.standing.met(now);
    }
}
