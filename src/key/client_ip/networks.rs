//! Networks, as text in settings: [`parse_network`].

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The prefix of IPv4-mapped addresses, in bits.
const MAPPED: u8 = 96;

/// Parses a network, or a single address as a network of its own. A network of IPv4-mapped addresses
/// becomes the IPv4 network, as clients' addresses are converted in the same way.
///
/// # Errors
/// What is wrong with it, and what to write instead.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let parsed = text
        .parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .ok_or_else(|| {
            format!("`{text}` is no address or network; write one like `10.0.0.0/8` or `192.0.2.1`")
        })?;
    let IpNet::V6(network) = parsed else { return Ok(parsed) };
    let Some(mapped) = network.addr().to_ipv4_mapped() else { return Ok(parsed) };
    let bits = network.prefix_len().checked_sub(MAPPED);
    match bits.and_then(|bits| Ipv4Net::new(mapped, bits).ok()) {
        Some(network) => Ok(network.into()),
        None => Err(format!(
            "`{text}` reaches beyond the IPv4-mapped addresses; write an IPv4 network like `10.0.0.0/8`"
        )),
    }
}

/// Parses several networks, as [`parse_network`] does.
pub(crate) fn parse_networks<T: AsRef<str>>(
    networks: impl IntoIterator<Item = T>,
) -> Result<Vec<IpNet>, String> {
    networks.into_iter().map(|text| parse_network(text.as_ref())).collect()
}

/// Whether the networks together hold every address that a caller can have: all of IPv4, or all of
/// the IPv6 addresses that are routed on the internet.
pub(crate) fn hold_all_callers(networks: &Vec<IpNet>) -> bool {
    const GLOBAL_UNICAST: Ipv6Net =
        Ipv6Net::new_assert(std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
    IpNet::aggregate(networks).iter().any(|network| match network {
        IpNet::V4(network) => network.prefix_len() == 0,
        IpNet::V6(network) => network.contains(&GLOBAL_UNICAST),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_single_addresses_parse() {
        for (text, read) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("fd00::/8", Some("fd00::/8")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:a00:0/104", Some("10.0.0.0/8")),
            ("::ffff:192.0.2.1", Some("192.0.2.1/32")),
            ("::ffff:192.0.2.1/128", Some("192.0.2.1/32")),
            ("::ffff:0.0.0.0/96", Some("0.0.0.0/0")),
            ("::ffff:10.0.0.0/95", None),
            ("::ffff:10.0.0.0/8", None),
            ("10.0.0.0/33", None),
            ("fd00::/129", None),
            ("fe80::1%eth0", None),
            ("10.0.0.0.0", None),
            ("10.0.0.0/", None),
            (" 10.0.0.0/8", None),
            ("", None),
        ] {
            let network = parse_network(text).ok().map(|network| network.to_string());
            assert_eq!(network.as_deref(), read, "{text}");
        }
    }

    #[test]
    fn everybody_in_one_network_or_in_several() {
        for (networks, everybody) in [
            (&["0.0.0.0/0"][..], true),
            (&["::/0"], true),
            (&["2000::/3"], true),
            (&["0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1"], true),
            (&["::ffff:0.0.0.0/96"], true),
            (&["2000::/4", "3000::/4"], true),
            (&["0.0.0.0/1"], false),
            (&["10.0.0.0/8", "fd00::/8", "2001:db8::/32"], false),
            (&[], false),
        ] {
            assert_eq!(
                hold_all_callers(&parse_networks(networks).unwrap()),
                everybody,
                "{networks:?}"
            );
        }
    }
}
