//! What a person tells the running node over the control socket: hand over, cordon, uncordon, reload, and what backends are to get.

use super::{Daemon, cordon};
use crate::balancer::Order;
use crate::cluster::runtime::now;
use crate::cluster::{Cluster, NodeId, runtime};
use crate::status::Snapshot;
use crate::status::question::{Answer, BackendOrder, Command, Share};
use crate::status::socket::{self, Asked};
use log::{Level, info, log};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

/// How often a command looks whether another node leads.
const LOOK: Duration = Duration::from_millis(2);
/// Beside two leases, a cordoned leader waits this long for a successor before it says that there is none.
const SUCCESSOR: Duration = Duration::from_secs(1);

impl Asked for Daemon {
    fn snapshot(&self) -> Snapshot {
        self.describe()
    }

    fn command(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + '_>> {
        Box::pin(self.obey(command))
    }

    fn upgrade(&self, client: OwnedFd) -> Pin<Box<dyn Future<Output = Answer> + '_>> {
        Box::pin(Self::upgrade(self, client))
    }
}

impl Daemon {
    async fn obey(&self, command: Command) -> Answer {
        let Some(_turn) = Turn::take(&self.commanded) else {
            return Answer::Error("another command is under way: try again when it is done".to_string());
        };
        if self.stopping.get() {
            return Answer::Error(format!("{} is stopping", self.config.local.id));
        }
        info!("told over the control socket: {}", command.in_words());
        let level = if matches!(command, Command::Reload { .. }) { Level::Error } else { Level::Warn };
        let limit = socket::limit(self.config.timing.lease);
        let result = runtime::timeout(limit, self.execute(command)).await;
        match result.unwrap_or_else(|_| Err(format!("not done within {} s; see `kube-vip status`", limit.as_secs()))) {
            Ok(text) => {
                info!("{text}");
                Answer::Done(text)
            }
            Err(why) => {
                log!(level, "{}", super::reload::one_line(&why));
                Answer::Error(why)
            }
        }
    }

    /// One command at a time.
    pub(super) fn turn(&self) -> Option<impl Drop + '_> {
        Turn::take(&self.commanded)
    }

    async fn execute(&self, command: Command) -> Result<String, String> {
        match command {
            Command::HandOver { to } => self.hand_over(to.as_deref()).await,
            Command::Cordon => self.cordon().await,
            Command::Uncordon => self.uncordon().await,
            Command::Reload { checked } => self.reload(checked).await,
            Command::Backend(order) => self.order(&order),
        }
    }

    fn order(&self, BackendOrder { balancer, target, order }: &BackendOrder) -> Result<String, String> {
        let order = match *order {
            Share::Drain => Order::Drain,
            Share::Disable => Order::Disable,
            Share::Enable => Order::Enable,
            Share::Weight(weight) => Order::Weight(weight),
        };
        let done = self.control.order(balancer.as_deref(), target, order)?;
        self.backends.applied();
        Ok(done)
    }

    async fn hand_over(&self, to: Option<&str>) -> Result<String, String> {
        let cluster = self.cluster.as_ref().ok_or("this node is alone (singleNode): there is none to hand over to")?;
        let to = to.map(|id| self.peer(id)).transpose()?;
        self.is_leader(cluster)?;
        let begun = now();
        let leader = cluster.hand_over(to).await?;
        Ok(format!("{leader} leads now and takes {}; handed over in {} ms", self.config.vip, (now() - begun).as_millis()))
    }

    fn peer(&self, id: &str) -> Result<NodeId, String> {
        let ids: Vec<&str> = self.config.remotes.iter().map(|p| p.id.as_str()).collect();
        if id == self.config.local.id {
            return Err(format!("{id} is this node; name another: {}", ids.join(", ")));
        }
        if !ids.contains(&id) {
            return Err(format!("{id} is no node of this cluster; the others are {}", ids.join(", ")));
        }
        NodeId::new(id).map_err(|e| e.to_string())
    }

    fn is_leader(&self, cluster: &Cluster) -> Result<(), String> {
        let view = cluster.view();
        match view.leader {
            Some(leader) if leader == self.config.local.id => Ok(()),
            Some(leader) => Err(format!("{leader} leads, not {}: say it there", self.config.local.id)),
            None => Err("no leader is known now: nobody can hand over".to_string()),
        }
    }

    /// Acts first: a disk that takes its time must not keep the VIP here.
    async fn cordon(&self) -> Result<String, String> {
        let (id, vip, begun) = (&self.config.local.id, self.config.vip, now());
        let led = self.cluster.as_ref().is_some_and(|cluster| self.is_leader(cluster).is_ok());
        self.holder.set_cordoned(true);
        let successor = match &self.cluster {
            Some(cluster) if led => self.successor(cluster).await,
            Some(_) => None,
            None => {
                self.holder.release().await;
                None
            }
        };
        let took = (now() - begun).as_millis();
        cordon::mark(&self.config.state_dir, true)
            .await
            .map_err(|why| format!("{id} is cordoned, but only until a restart: {why}"))?;
        match successor {
            Some(leader) => Ok(format!("{id} is cordoned; {leader} leads now and takes {vip}, handed over in {took} ms")),
            None if led => {
                Err(format!("{id} is cordoned, and nobody holds {vip}: no other node is ready to. `kube-vip uncordon` ends it"))
            }
            None => Ok(format!("{id} is cordoned: it does not hold {vip} until `kube-vip uncordon`")),
        }
    }

    /// Who leads after this node, which is unfit now and hands over by itself. Where all are unfit, one leads and nobody holds.
    async fn successor(&self, cluster: &Cluster) -> Option<String> {
        let until = now() + self.config.timing.lease * 2 + SUCCESSOR;
        while now() < until {
            let view = cluster.view();
            let can_hold = |id: &String| view.peers.iter().any(|p| p.id == *id && p.says.is_some_and(|says| says.fit));
            let leader = view.leader.as_ref().filter(|id| can_hold(id));
            if let (None, Some(leader)) = (self.holder.held(), leader) {
                return Some(leader.clone());
            }
            runtime::sleep(LOOK).await;
        }
        None
    }

    async fn uncordon(&self) -> Result<String, String> {
        let id = &self.config.local.id;
        self.holder.set_cordoned(false);
        cordon::mark(&self.config.state_dir, false)
            .await
            .map_err(|why| format!("{id} is not cordoned any more, but will be after a restart: {why}"))?;
        Ok(format!("{id} is not cordoned any more: it may hold {}", self.config.vip))
    }
}

/// One command at a time: the turn ends with its value.
pub(super) struct Turn<'a>(&'a Cell<bool>);

impl<'a> Turn<'a> {
    pub(super) fn take(taken: &'a Cell<bool>) -> Option<Self> {
        (!taken.replace(true)).then(|| Turn(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_has_its_turn_at_a_time() {
        let taken = Cell::new(false);
        let first = Turn::take(&taken);
        assert!(first.is_some() && Turn::take(&taken).is_none() && Turn::take(&taken).is_none());
        drop(first);
        assert!(Turn::take(&taken).is_some());
    }
}
