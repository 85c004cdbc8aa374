//! `backend` and its commands.

use argh::FromArgs;
use std::path::PathBuf;

/// look at the backends of this running node, and change what they get until they are enabled again or the node restarts
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "backend")]
pub struct Backend {
    /// what to do
    #[argh(subcommand)]
    pub what: BackendWhat,
}

/// What can be done with backends.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum BackendWhat {
    /// Show them.
    List(BackendList),
    /// No new connections.
    Drain(BackendDrain),
    /// As configured.
    Enable(BackendEnable),
    /// Maintenance.
    Disable(BackendDisable),
    /// Another share.
    Weight(BackendWeight),
}

/// show all backends: state, weight, open connections
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "list")]
pub struct BackendList {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// of this balancer only
    #[argh(option, arg_name = "name")]
    pub balancer: Option<String>,
    /// print JSON, for machines
    #[argh(switch)]
    pub json: bool,
}

/// give a backend no new connections; those open go on, and it goes on being checked
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "drain")]
pub struct BackendDrain {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// of this balancer only (of each that has it)
    #[argh(option, arg_name = "name")]
    pub balancer: Option<String>,
    /// the backend: address, name, or either with its port
    #[argh(positional)]
    pub target: String,
}

/// let a backend have connections again, with the weight of the configuration
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "enable")]
pub struct BackendEnable {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// of this balancer only (of each that has it)
    #[argh(option, arg_name = "name")]
    pub balancer: Option<String>,
    /// the backend: address, name, or either with its port
    #[argh(positional)]
    pub target: String,
}

/// maintenance: give a backend no new connections and no health checks; those open go on
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "disable")]
pub struct BackendDisable {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// of this balancer only (of each that has it)
    #[argh(option, arg_name = "name")]
    pub balancer: Option<String>,
    /// the backend: address, name, or either with its port
    #[argh(positional)]
    pub target: String,
}

/// give a backend another share of new connections
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "weight")]
pub struct BackendWeight {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// of this balancer only (of each that has it)
    #[argh(option, arg_name = "name")]
    pub balancer: Option<String>,
    /// the backend: address, name, or either with its port
    #[argh(positional)]
    pub target: String,
    /// its share beside the others: 0 (no new connections) to 256
    #[argh(positional, from_str_fn(weight))]
    pub weight: u16,
}

fn weight(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|n| *n <= 256).ok_or_else(|| "a weight is a number from 0 to 256, 1 is usual".to_owned())
}
