//! The way out: told once, the node hands over and drains; told twice, it does not wait for connections.

use super::Daemon;
use crate::cluster::runtime;
use crate::reactor::Async;
use crate::sys::clock::now;
use crate::sys::process;
use crate::sys::signal::Signals;
use log::info;
use nix::sys::signal::Signal;
use smol::future::FutureExt;
use std::time::Duration;

/// How often a drain looks whether connections are left.
const LOOK: Duration = Duration::from_millis(10);

/// Who told the daemon to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A signal to this process.
    Signal,
    /// The keeper, which got one.
    Keeper,
}

/// How often each said so. A service manager, or Ctrl-C, tells both processes at once: that is once.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    signals: u32,
    keeper: u32,
}

impl Told {
    fn by(&mut self, by: By) {
        match by {
            By::Signal => self.signals += 1,
            By::Keeper => self.keeper += 1,
        }
    }

    const fn twice(self) -> bool {
        self.signals > 1 || self.keeper > 1
    }
}

impl Daemon {
    /// Until a signal, or until a part can't go on.
    pub(super) async fn live(&self, signals: Signals) -> Result<(), String> {
        let signals = Async::new(signals).map_err(|e| format!("can't read signals: {e}"))?;
        let ended = self.told(&signals).await;
        info!("stopping: {}", ended.as_ref().err().map_or("told to", String::as_str));
        self.stopping.set(true);
        self.tell_drain(); // it may not have heard of a reload
        let begun = now();
        let orderly = async {
            self.control.stop_accepting();
            self.holder.stop().await;
        };
        orderly.or(self.holder.stop_limit()).await;
        info!("stopped in {} ms", (now() - begun).as_millis());
        // Where a part failed, a restart is worth more than what is left.
        if let Ok(by) = &ended {
            self.drain(&signals, *by).await;
        }
        ended.map(drop)
    }

    async fn told(&self, signals: &Async<Signals>) -> Result<By, String> {
        let signalled = async { self.signalled(signals).await.map(|()| By::Signal) };
        signalled.or(async { self.holder.ended().await.map(|()| By::Keeper) }).await
    }

    /// Connections that don't need the VIP may end by themselves for a while.
    async fn drain(&self, signals: &Async<Signals>, by: By) {
        let (open, limit) = (self.control.own_connections(), self.running.borrow().drain);
        if open == 0 || limit.is_zero() {
            return;
        }
        info!("draining {open} connections for up to {} s", limit.as_secs_f64());
        let begun = now();
        let ended = async {
            while self.control.own_connections() > 0 {
                runtime::sleep(LOOK).await;
            }
            "all have ended"
        };
        let late = async {
            runtime::sleep(limit).await;
            "time is over"
        };
        let again = async {
            self.told_twice(signals, by).await;
            "told again"
        };
        let why = ended.or(late).or(again).await;
        info!("drained for {} ms, {why}: {} connections cut", (now() - begun).as_millis(), self.control.own_connections());
    }

    /// Waits for a signal that means stop.
    async fn signalled(&self, signals: &Async<Signals>) -> Result<(), String> {
        let next = |signals: &Signals| signals.next().ok_or(std::io::ErrorKind::WouldBlock.into());
        loop {
            let signal = signals.read_with(next).await.map_err(|e| format!("can't read signals: {e}"))?;
            info!("{signal}");
            if signal != Signal::SIGHUP {
                return Ok(());
            }
            if self.terminal && !process::has_terminal() {
                info!("the terminal went away");
                return Ok(());
            }
            self.hung_up.wake();
        }
    }

    async fn told_twice(&self, signals: &Async<Signals>, first: By) {
        let mut told = Told::default();
        told.by(first);
        while !told.twice() {
            match self.told(signals).await {
                Ok(by) => told.by(by),
                Err(why) => log::debug!("while draining: {why}"), // nothing more is at stake
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_processes_told_at_once_is_once() {
        use By::{Keeper, Signal};
        let twice = |all: &[By]| {
            let mut told = Told::default();
            all.iter().for_each(|by| told.by(*by));
            told.twice()
        };
        assert!(!twice(&[Signal]) && !twice(&[Keeper]) && !twice(&[Signal, Keeper]) && !twice(&[Keeper, Signal]));
        assert!(twice(&[Signal, Signal]) && twice(&[Keeper, Keeper]) && twice(&[Keeper, Signal, Signal]));
    }
}
