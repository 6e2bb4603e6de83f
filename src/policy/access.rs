//! Who may send what where: the class of a client, and the verdict on a recipient.
//!
//! Owns the replies of refusals, all of them the peer's fault (5xx) except a fault of our maps
//! (451). Knows no session. A verdict allocates only when the address is rewritten.

use crate::route::expand::Expansion;
use crate::route::srs::Returned;
use crate::route::tables::{Router, split};
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// Send to our domains.
    Stranger,
    /// Relay anywhere, without the limits per address.
    Trusted,
}

/// The networks whose clients may relay.
#[derive(Clone, Debug, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// These networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Networks(networks.into_iter().map(canonical).collect())
    }

    /// The class of the client at `address`. An IPv4 address in IPv6 form counts as IPv4.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> Client {
        if self.contains(address) { Client::Trusted } else { Client::Stranger }
    }

    /// True if one of them has `address`. An IPv4 address in IPv6 form counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|n| n.contains(&address))
    }
}

/// A network of IPv4 addresses in IPv6 form becomes one of IPv4 addresses, as they do.
fn canonical(network: IpNet) -> IpNet {
    let bits = network.prefix_len().checked_sub(96);
    match (network.addr().to_canonical(), network, bits) {
        (IpAddr::V4(address), IpNet::V6(_), Some(bits)) => {
            Ipv4Net::new(address, bits).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

/// A refusal: reply code, enhanced code (RFC 3463), text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// 4xx or 5xx.
    pub code: u16,
    /// For example 5.1.1.
    pub enhanced: (u8, u16, u16),
    /// ASCII, one line.
    pub text: &'static str,
}

/// No such user here.
pub const UNKNOWN_USER: Refusal = refusal(550, (5, 1, 1), "User unknown");
/// Neither sender nor recipient are ours.
pub const RELAY_DENIED: Refusal = refusal(554, (5, 7, 1), "Relay access denied");
/// We know no way there.
pub const NO_ROUTE: Refusal = refusal(550, (5, 4, 4), "No route to the recipient's domain");
/// Our maps are at fault.
pub const MAP_FAULT: Refusal =
    refusal(451, (4, 3, 5), "Alias loop or too many aliases; told to the operator");
/// The local part contains another route.
pub const SOURCE_ROUTED: Refusal =
    refusal(554, (5, 7, 1), "Relay access denied: routing inside the local part");
/// A login that sends as somebody else (RFC 6409 §6.1).
pub const NOT_YOUR_ADDRESS: Refusal = refusal(553, (5, 7, 1), "Sender address is not one of this login");
/// A login above its rate of messages.
pub const TOO_MUCH_MAIL: Refusal = refusal(450, (4, 7, 1), "Too much mail of this login, try again later");
/// A login above its rate of recipients.
pub const TOO_MANY_RECIPIENTS: Refusal =
    refusal(450, (4, 7, 1), "Too many recipients of this login, try again later");
/// An address without domain that is not postmaster's.
pub const NO_DOMAIN: Refusal = refusal(553, (5, 1, 3), "An address needs a domain");

/// The account holds as much as it may; the sender is told at once.
pub const MAILBOX_FULL: Refusal = refusal(552, (5, 2, 2), "Mailbox is full");
/// The same, to be tried again.
pub const MAILBOX_FULL_NOW: Refusal = refusal(452, (4, 2, 2), "Mailbox is full, try again later");
/// There is no room on the disk of mailboxes.
pub const NO_SPACE: Refusal = refusal(452, (4, 3, 1), "Insufficient system storage");
/// Mailboxes cannot be asked.
pub const MAILBOX_BUSY: Refusal = refusal(451, (4, 3, 2), "Mailboxes are busy, try again later");
/// Something is wrong with the mailbox, which is not the sender's fault.
pub const MAILBOX_TROUBLE: Refusal = refusal(451, (4, 3, 0), "Mailbox cannot be used now, try again later");

/// What becomes of a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Taken as it is.
    Accept,
    /// Taken; the mail goes to these addresses instead. At least one of them can be reached; the
    /// queue notifies the sender of any other.
    AcceptAs(Vec<Box<[u8]>>),
    /// Not taken.
    Refuse(Refusal),
}

/// The verdict on `recipient` (no angle brackets) of a client.
#[must_use]
pub fn recipient(router: &Router, client: Client, recipient: &[u8]) -> Verdict {
    let (local, domain) = split(recipient);
    // RFC 5321 §4.1.1.3: RCPT TO:<postmaster> needs no domain.
    if domain.is_empty() && !local.eq_ignore_ascii_case(b"postmaster") {
        return Verdict::Refuse(NO_DOMAIN);
    }
    let returned = router.returned(recipient);
    if returned == Some(Returned::Forged) {
        return Verdict::Refuse(UNKNOWN_USER);
    }
    let expansion = match router.expand(recipient) {
        Expansion::Fault(_) => return Verdict::Refuse(MAP_FAULT),
        e => e,
    };
    let (is_local, is_relay) = (router.is_local(domain), router.is_relay(domain));
    let is_postmaster = local.eq_ignore_ascii_case(b"postmaster") && expansion != Expansion::Same;
    let is_ours = is_local || is_relay || returned.is_some() || is_ours(router, domain, is_postmaster);
    if client == Client::Stranger && !is_ours {
        return Verdict::Refuse(RELAY_DENIED);
    }
    if let Expansion::To(targets) = expansion {
        let reachable = targets.iter().any(|t| router.is_routed(split(t).1));
        return if reachable {
            Verdict::AcceptAs(targets)
        } else {
            unreachable(is_local || domain.is_empty())
        };
    }
    // A customer's server could take `user%other@customer` for an order to relay: from strangers
    // that would make an open relay of both of us.
    let routed_inside = local.iter().any(|b| matches!(b, b'@' | b'%' | b'!'));
    if client == Client::Stranger && !is_local && routed_inside {
        return Verdict::Refuse(SOURCE_ROUTED);
    }
    if is_relay && !is_local && !router.is_relay_recipient(recipient) {
        return Verdict::Refuse(UNKNOWN_USER);
    }
    if router.is_routed(domain) { Verdict::Accept } else { unreachable(is_local || domain.is_empty()) }
}

fn is_ours(router: &Router, domain: &[u8], is_postmaster: bool) -> bool {
    is_postmaster && (domain.is_empty() || router.is_host(domain))
}

fn unreachable(here: bool) -> Verdict {
    Verdict::Refuse(if here { UNKNOWN_USER } else { NO_ROUTE })
}

const fn refusal(code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Refusal {
    Refusal { code, enhanced, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::destination::{NextHop, TlsPolicy};
    use crate::route::map::{Kind, parse};
    use crate::route::tables::Bounds;

    fn router() -> Router {
        let mut r = Router::new("mx.home.example");
        r.add_local("home.example");
        r.add_local("moved.example");
        r.add_relay("cust.example");
        let hop = |t| NextHop::parse(t, TlsPolicy::Opportunistic).unwrap();
        for d in ["cust.example", "out.example", "moved.example"] {
            r.add_route(d, hop("192.0.2.1:25"));
        }
        let aliases = "sales: x@out.example\nlost: nobody\nhalf: nobody, x@out.example\nc: d\nd: e\ne: d\n";
        r.set_maps(
            parse(aliases.as_bytes(), Kind::Aliases).table,
            parse(b"v@out.example w@out.example\n", Kind::Virtual).table,
        );
        r.set_relay_recipients(Some(
            parse(b"known@cust.example OK\nb%c@cust.example OK\n", Kind::Keys).table,
        ));
        r.set_rewriting(Some("boss@out.example"), "+", Bounds::default());
        r
    }

    fn verdict(client: Client, address: &str) -> Verdict {
        recipient(&router(), client, address.as_bytes())
    }

    fn as_(address: &str) -> Verdict {
        Verdict::AcceptAs(vec![address.as_bytes().into()])
    }

    #[test]
    fn strangers() {
        for (address, expected) in [
            ("known@CUST.example", Verdict::Accept),
            ("known+x@cust.example", Verdict::Accept),
            ("unknown@cust.example", Verdict::Refuse(UNKNOWN_USER)),
            ("b%c@cust.example", Verdict::Refuse(SOURCE_ROUTED)),
            ("known@out.example@cust.example", Verdict::Refuse(SOURCE_ROUTED)),
            ("a@out.example", Verdict::Refuse(RELAY_DENIED)),
            ("v@out.example", Verdict::Refuse(RELAY_DENIED)),
            ("a@else.example", Verdict::Refuse(RELAY_DENIED)),
            ("user@home.example", Verdict::Refuse(UNKNOWN_USER)),
            ("anyone@moved.example", Verdict::Accept),
            ("Sales@home.example", as_("x@out.example")),
            ("lost@home.example", Verdict::Refuse(UNKNOWN_USER)),
            ("c@home.example", Verdict::Refuse(MAP_FAULT)),
            ("postmaster", as_("boss@out.example")),
            ("Postmaster@home.example", as_("boss@out.example")),
            ("postmaster@MX.home.example", as_("boss@out.example")),
            ("postmaster@cust.example", as_("boss@out.example")),
            ("postmaster@out.example", Verdict::Refuse(RELAY_DENIED)),
            ("user@mx.home.example", Verdict::Refuse(RELAY_DENIED)),
            ("user", Verdict::Refuse(NO_DOMAIN)),
        ] {
            assert_eq!(verdict(Client::Stranger, address), expected, "{address}");
        }
        let Verdict::AcceptAs(both) = verdict(Client::Stranger, "half@home.example") else { panic!() };
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn trusted() {
        assert_eq!(verdict(Client::Trusted, "a@out.example"), Verdict::Accept);
        assert_eq!(verdict(Client::Trusted, "v@out.example"), as_("w@out.example"));
        assert_eq!(verdict(Client::Trusted, "b%c@cust.example"), Verdict::Accept);
        assert_eq!(verdict(Client::Trusted, "a@else.example"), Verdict::Refuse(NO_ROUTE));
        assert_eq!(verdict(Client::Trusted, "user@home.example"), Verdict::Refuse(UNKNOWN_USER));
    }

    #[test]
    fn classes() {
        let n = Networks::new(["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let class = |a: &str| n.class(a.parse().unwrap());
        assert_eq!(
            (class("10.1.2.3"), class("::ffff:10.1.2.3"), class("::1")),
            (Client::Trusted, Client::Trusted, Client::Trusted)
        );
        assert_eq!(
            (class("11.0.0.1"), class("::2"), class("::ffff:11.0.0.1")),
            (Client::Stranger, Client::Stranger, Client::Stranger)
        );
        let mapped = Networks::new(["::ffff:10.0.0.0/104".parse().unwrap()]);
        assert!(mapped.contains([10, 9, 9, 9].into()) && !mapped.contains([11, 0, 0, 1].into()));
    }
}
