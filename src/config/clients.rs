//! Whose connections a balancer takes, and whose word about a client's address it believes: `allow`, `deny`, `acceptProxy`.

use super::checked::{Balancer, ProxyVersion};
use super::network::Network;
use super::problem::shown;
use super::raw::{RawBalancer, Texts};
use super::walk::{Found, Given, Spot};
use std::net::IpAddr;

/// Fills it in; complete only where `found` has no problem. `vip` is the one address of a balancer that is bound to it.
pub(crate) fn fill(balancer: &mut Balancer, raw: &RawBalancer, vip: Option<IpAddr>, found: &mut Found) {
    balancer.send_proxy = raw.send_proxy.checked(found, |t| version(t));
    balancer.accept_proxy = networks(&raw.accept_proxy, "for nobody", found);
    balancer.allow = networks(&raw.allow, "for everybody", found);
    balancer.deny = networks(&raw.deny, "for nobody", found);
    nobody_is_left(balancer, raw, vip.filter(|_| balancer.bind_to_vip), found);
}

fn version(text: &str) -> Result<ProxyVersion, String> {
    match text.to_ascii_lowercase().as_str() {
        "v1" => Ok(ProxyVersion::V1),
        "v2" => Ok(ProxyVersion::V2),
        _ => Err("is no version of the PROXY protocol; write v1 (a line of text) or v2 (binary), as the backends expect it"
            .to_owned()),
    }
}

/// All of a key's networks. An empty list could be meant either way, so it is refused; `absent` says for whom the key's absence is.
fn networks(given: &Given<Texts>, absent: &str, found: &mut Found) -> Vec<Network> {
    let Some(Spot { value: texts, .. }) = given.good() else { return Vec::new() };
    if let (true, Some(spot)) = (texts.is_empty(), given.good()) {
        found.at(spot, format!("is empty; name at least one network, or leave it out {absent}"));
    }
    texts.iter().filter_map(|spot| network(spot, found)).collect()
}

fn network(spot: &Spot<String>, found: &mut Found) -> Option<Network> {
    let network: Network = spot.checked(found, |t| t.parse())?;
    let trimmed = network.trimmed();
    if network != trimmed {
        let text = format!(
            "{} has bits set beyond its prefix and means {trimmed}; write it so, or a longer prefix",
            shown(&spot.value)
        );
        found.warn(spot.line, &*spot.key, text);
    }
    Some(trimmed)
}

/// Lists that refuse more than anybody can mean.
fn nobody_is_left(balancer: &Balancer, raw: &RawBalancer, vip: Option<IpAddr>, found: &mut Found) {
    for (spot, network) in raw.deny.good().into_iter().flat_map(|spot| &spot.value).zip(&balancer.deny) {
        if network.is_everything() {
            let family = if network.is_ipv4() { "IPv4" } else { "IPv6" };
            found.warn(
                spot.line,
                &*spot.key,
                format!("{network} refuses every {family} client; remove it, or name whom to refuse"),
            );
        }
    }
    let Some((spot, vip)) = raw.allow.good().zip(vip) else { return };
    if !balancer.allow.is_empty() && balancer.allow.iter().all(|n| n.is_ipv4() != vip.is_ipv4()) {
        let (has, wants) = if vip.is_ipv4() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        found.warn(
            spot.line,
            &*spot.key,
            format!("has {has} networks only, but clients of {vip} come by {wants}: nobody is served; add theirs"),
        );
    }
}
