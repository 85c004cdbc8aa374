//! The commands and their flags, as argh parses them.
//!
//! argh allows lower-case flag names only; [`super::flags`] turns `--disableVIP` and `--disable-vip` into `--disablevip` on
//! the way in, and back in every help text on the way out.

mod backend; // what there is to do with backends

pub use backend::{Backend, BackendList, BackendWhat};

use crate::config::Overrides;
use argh::FromArgs;
use std::path::PathBuf;

/// one virtual IP for a handful of nodes, elected by raft, with a TCP load balancer behind it
#[derive(FromArgs, Debug, PartialEq)]
pub struct Top {
    /// the command
    #[argh(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum Command {
    /// Print a sample.
    Sample(Sample),
    /// Check a configuration.
    Check(Check),
    /// Run the node.
    Start(Start),
    /// Ask the running node.
    Status(Status),
    /// Move the VIP.
    HandOver(HandOver),
    /// Hold no more.
    Cordon(Cordon),
    /// Hold again.
    Uncordon(Uncordon),
    /// Put a changed file in place.
    Reload(Reload),
    /// Look at backends, and change what they get.
    Backend(Backend),
    /// Go on as another program.
    Upgrade(Upgrade),
    /// Remove left-overs.
    Cleanup(Cleanup),
    /// Say which program this is.
    Version(Version),
}

/// print a sample to edit
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "sample")]
pub struct Sample {
    /// what to print
    #[argh(subcommand)]
    pub what: SampleWhat,
}

/// What can be printed.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum SampleWhat {
    /// The configuration.
    Config(SampleConfig),
    /// The static Pod.
    Manifest(SampleManifest),
}

/// print a configuration in which every key is explained; flags and environment variables fill it in
#[derive(FromArgs, Debug, Default, PartialEq)]
#[argh(
    subcommand,
    name = "config",
    note = "Environment, where the flag is absent: vip_interface vip_address vip_singlenode vip_startleader vip_arp vip_addpeerstolb\nvip_localpeer vip_peers lb_name lb_type lb_bindtovip lb_port lb_backendport lb_backends",
    example = "Three nodes, on the first of them:\n{command_name} --interface eth0 --vip 10.0.0.100 --localPeer a:10.0.0.1:10000 --remotePeers b:10.0.0.2:10000,c:10.0.0.3:10000 > config.yaml"
)]
pub struct SampleConfig {
    /// network interface that gets the VIP
    #[argh(option)]
    pub interface: Option<String>,
    /// the VIP, an address that no machine has
    #[argh(option)]
    pub vip: Option<String>,
    /// this node is alone (true without a value)
    #[argh(option, long = "singlenode", arg_name = "bool")]
    pub single_node: Option<bool>,
    /// preferred in the first election of a new cluster (true without a value)
    #[argh(option, long = "startasleader", arg_name = "bool")]
    pub start_as_leader: Option<bool>,
    /// announce the VIP on becoming leader (true without a value)
    #[argh(option, arg_name = "bool")]
    pub arp: Option<bool>,
    /// this node, as id:address:port
    #[argh(option, long = "localpeer", arg_name = "peer")]
    pub local_peer: Option<String>,
    /// the other nodes, as id:address:port,id:address:port
    #[argh(option, long = "remotepeers", arg_name = "peers")]
    pub remote_peers: Option<String>,
    /// the balancer listens on the VIP only (true without a value)
    #[argh(option, long = "lbbindtovip", arg_name = "bool")]
    pub lb_bind_to_vip: Option<bool>,
    /// type of the balancer, tcp
    #[argh(option, long = "lbtype", arg_name = "type")]
    pub lb_type: Option<String>,
    /// name of the balancer
    #[argh(option, long = "lbname", arg_name = "name")]
    pub lb_name: Option<String>,
    /// port of the balancer
    #[argh(option, long = "lbport", arg_name = "port", from_str_fn(port))]
    pub lb_port: Option<u16>,
    /// backends of the balancer, as address:port,address:port
    #[argh(option, long = "lbbackends", arg_name = "list")]
    pub lb_backends: Option<String>,
}

/// print a Kubernetes static Pod that runs kube-vip on the node
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "manifest")]
pub struct SampleManifest {
    /// the container image (kube-vip with this program's version)
    #[argh(option)]
    pub image: Option<String>,
    /// the configuration on the node (/etc/kube-vip/config.yaml)
    #[argh(option, short = 'c', default = "PathBuf::from(\"/etc/kube-vip/config.yaml\")", arg_name = "file")]
    pub config: PathBuf,
}

/// check a configuration and print every problem at once; touches nothing
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// the configuration
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// also hold it against this machine: interface, addresses, ports, privileges
    #[argh(switch)]
    pub here: bool,
}

/// run this node until SIGTERM or SIGINT; on the way out it lets the VIP go and hands over
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "start")]
pub struct Start {
    /// the configuration
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// never hold the VIP; balance only
    #[argh(switch, short = 'd', long = "disablevip")]
    pub disable_vip: bool,
    /// this node is alone: no election, hold at once
    #[argh(switch, short = 's', long = "singlenode")]
    pub single_node: bool,
    /// preferred in the very first election of a new cluster
    #[argh(switch, short = 'l', long = "startasleader")]
    pub start_as_leader: bool,
    /// how much to log: 1 errors, 3 warnings, 4 information, 5 debug, 6 trace (4)
    #[argh(option, default = "4", arg_name = "n", from_str_fn(log_level))]
    pub log: u8,
}

impl Start {
    /// What the flags change in the file.
    pub fn overrides(&self) -> Overrides {
        Overrides { disable_vip: self.disable_vip, single_node: self.single_node, start_as_leader: self.start_as_leader }
    }

    /// `--log` for the `log` crate, on the scale of 2020 (logrus): 0–2 errors, 3 warnings, 4 information, 5 debug, 6 trace.
    pub fn log_filter(&self) -> log::LevelFilter {
        match self.log {
            0..=2 => log::LevelFilter::Error,
            3 => log::LevelFilter::Warn,
            4 => log::LevelFilter::Info,
            5 => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        }
    }
}

fn log_level(text: &str) -> Result<u8, String> {
    text.parse()
        .ok()
        .filter(|n| *n <= 6)
        .ok_or_else(|| "write a number from 0 (errors) to 6 (everything); 4 is usual".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a number from 1 to 65535, e.g. --lbPort 8080".to_owned())
}

/// ask the running node who leads, who holds the VIP, and how the balancers do
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// print JSON, for machines
    #[argh(switch)]
    pub json: bool,
}

/// move the VIP from this running node to another: at once, and without a gap where both are well
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "handover")]
pub struct HandOver {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
    /// the id of the node that gets it (the ready one of highest priority)
    #[argh(option, arg_name = "id")]
    pub to: Option<String>,
}

/// maintenance: this running node goes on voting, but gives the VIP away and does not take it, also after a restart, until `uncordon`
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "cordon")]
pub struct Cordon {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
}

/// end maintenance: this running node may hold the VIP again
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "uncordon")]
pub struct Uncordon {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
}

/// the running daemon goes on as the program that was installed over it, with its connections and the VIP; `reload --exec` is the same
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "upgrade",
    note = "The keeper, the small process that adds and removes the VIP, goes on with its old code until the next start; `status` tells both\nversions. Where the new program can't take over in place, or finds a problem in the configuration, nothing changes."
)]
pub struct Upgrade {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
}

/// put a changed configuration in place without losing a connection: balancers, backends, limits; what takes a restart is named and refused
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "reload")]
pub struct Reload {
    /// the configuration the node was started with, as it is to be now
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
}

/// remove a VIP that an earlier run of this program left behind, and nothing else
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "cleanup")]
pub struct Cleanup {
    /// the configuration the node was started with
    #[argh(option, short = 'c', arg_name = "file")]
    pub config: PathBuf,
}

/// print version, target and revision
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "version")]
pub struct Version {}
