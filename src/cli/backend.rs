//! `backend`: shows the backends of the running node, and tells it what they are to get.

use super::args::{BackendList, BackendWhat};
use super::{Exit, orders, print, status, usage};
use crate::config::Overrides;
use crate::status::question::{BackendOrder, Command, Share};
use crate::status::{BalancerStatus, socket, table};
use std::path::Path;

/// No name of a balancer or backend has more bytes.
const MAX_NAME: usize = 300;

/// Runs the command.
pub fn run(what: &BackendWhat) -> Exit {
    match what {
        BackendWhat::List(args) => list(args),
        BackendWhat::Drain(args) => tell(&args.config, &args.balancer, &args.target, Share::Drain),
        BackendWhat::Enable(args) => tell(&args.config, &args.balancer, &args.target, Share::Enable),
        BackendWhat::Disable(args) => tell(&args.config, &args.balancer, &args.target, Share::Disable),
        BackendWhat::Weight(args) => tell(&args.config, &args.balancer, &args.target, Share::Weight(args.weight)),
    }
}

#[allow(clippy::ref_option)] // as argh gives it
fn tell(file: &Path, balancer: &Option<String>, target: &str, order: Share) -> Exit {
    if [Some(target), balancer.as_deref()].into_iter().flatten().any(|name| name.len() > MAX_NAME) {
        return usage("that name is too long for a balancer or backend; `kube-vip backend list -c FILE` shows them");
    }
    let order = BackendOrder { balancer: balancer.clone(), target: target.to_owned(), order };
    orders::tell(file, Command::Backend(order))
}

fn list(args: &BackendList) -> Exit {
    let config = match super::load(&args.config, &Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let chosen = socket::ask(&config.control_socket).and_then(|s| choose(s.balancers, args.balancer.as_deref()));
    match chosen {
        Err(why) => status::failed(&why),
        Ok(balancers) if args.json => match serde_json::to_string_pretty(&balancers) {
            Ok(text) => print(&text),
            Err(e) => status::failed(&e.to_string()),
        },
        Ok(balancers) => print(table::backends(&balancers).trim_end()),
    }
}

/// The one named, or all.
fn choose(all: Vec<BalancerStatus>, name: Option<&str>) -> Result<Vec<BalancerStatus>, String> {
    let Some(name) = name else { return Ok(all) };
    let names: Vec<String> = all.iter().map(|b| b.name.clone()).collect();
    let chosen: Vec<BalancerStatus> = all.into_iter().filter(|b| b.name == name).collect();
    if chosen.is_empty() {
        return Err(format!("there is no balancer {name:?}; there are {}", names.join(", ")));
    }
    Ok(chosen)
}
