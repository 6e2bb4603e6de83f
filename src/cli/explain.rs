//! `ringpost explain route ADDRESS`: what would become of mail to an address, and why.
//!
//! Owns the print-out. Reads the configuration and its maps as the server does, and asks the same name
//! servers; changes nothing and needs no running server. If there is one it is asked which mail that waits
//! operators have sent another way. Exit code 0 if the mail would go somewhere,
//! 75 if that cannot be said now, 65 if it would come back.

mod mailbox;
mod rerouted;
mod tls;

use super::{ConfigFile, Exit};
use crate::base::time::{Mono, Wall};
use crate::config::{Config, reload};
use crate::message::address;
use crate::policy::access::{self, Client, Verdict};
use crate::queue::schedule::Limits;
use crate::route::destination::{NextHop, Target, TlsPolicy};
use crate::route::dns;
use crate::route::expand::Expansion;
use crate::route::mx::{self, Fault, Origin, Security};
use crate::route::rewrite::Rewritten;
use crate::route::site;
use crate::route::tables::{Plan, Router, split};
use crate::runtime::{Clock, uring};
use crate::server::residents::Residents;
use crate::server::tables::DIRECT;
use crate::server::{names, settings};
use serde_json::{Value, json};
use std::cell::Cell;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long all look-ups for one recipient may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Recipients that are looked up; an alias may stand for more.
const RECIPIENTS_MAX: usize = 20;

/// What is to be explained.
#[derive(clap::Subcommand, Debug)]
pub enum ExplainCommand {
    /// Where mail to an address goes: rules, mail exchangers, limits
    Route(RouteArgs),
}

/// Arguments of `explain route`.
#[derive(clap::Args, Debug)]
pub struct RouteArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Address of a recipient: user@example.net, user@[192.0.2.1]
    address: String,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl ExplainCommand {
    /// Runs the command; prints to `out`.
    pub fn run(&self, out: &mut impl Write) -> Exit {
        let ExplainCommand::Route(args) = self;
        let (config, router) = match load(args) {
            Ok(loaded) => loaded,
            Err(text) => {
                eprint!("{text}");
                return Exit::Config;
            }
        };
        if address::Address::parse(args.address.as_bytes()).is_err() {
            eprintln!("{:?} is not an address: write user@example.net", args.address);
            return Exit::Usage;
        }
        let (report, exit) = match explain(&config, &router, args.address.as_bytes()) {
            Ok(report) => report,
            Err(text) => {
                eprintln!("{text}");
                return Exit::Config;
            }
        };
        let printed = if args.json { writeln!(out, "{report:#}") } else { print(&report, out) };
        if printed.is_err() { Exit::Io } else { exit }
    }
}

fn load(args: &RouteArgs) -> Result<(Config, Router), String> {
    let (config, _) = Config::load(&args.file.config).map_err(|problems| problems.to_string())?;
    let (router, _) = reload::router(&config).map_err(|problems| problems.to_string())?;
    Ok((config, router))
}

/// A clock for one command: no time passes.
#[derive(Clone)]
pub(super) struct Still;

impl Clock for Still {
    fn now(&self) -> Mono {
        Mono(0)
    }

    fn wall(&self) -> Wall {
        uring::wall_now()
    }

    fn sleep_until(&self, _: Mono) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }
}

/// The report, and what the command ends with.
fn explain(config: &Config, router: &Router, address: &[u8]) -> Result<(Value, Exit), String> {
    let off = Rc::new(Cell::new(false));
    let told = off.clone();
    let tell = Box::new(move |on: bool| told.set(!on));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let recipients = match router.expand(address) {
        Expansion::Same => vec![address.into()],
        Expansion::To(list) => list,
        Expansion::Fault(_) => Vec::new(),
    };
    let residents = mailbox::residents(config)?;
    let ways: Vec<(Value, Exit)> = runtime.block_on(async {
        let servers = names::servers(Still, config, tell)?;
        let mut ways = Vec::new();
        for recipient in recipients.iter().take(RECIPIENTS_MAX) {
            let (mut way, exit) = match router.plan(split(recipient).1) {
                Plan::Local => mailbox::way(residents.as_deref(), recipient, local(router, recipient)),
                _ => way(config, router, &servers, recipient).await,
            };
            let socket = config.admin.socket.as_deref();
            way["rerouted"] = socket.map_or(Value::Null, |at| rerouted::of(at, split(recipient).1));
            ways.push((way, exit));
        }
        Ok::<_, String>(ways)
    })?;
    // Whatever is worst.
    let exit = ways.iter().map(|w| w.1).max_by_key(|e| match e {
        Exit::Ok => 0,
        Exit::TempFail => 1,
        _ => 2,
    });
    let rules = router.recipient_rules();
    let renamed = match rules.apply(address) {
        Rewritten::Same => Value::Null,
        Rewritten::To(to) => json!({"to": text(&to), "line": rules.line(address)}),
        Rewritten::Bad => json!({"to": "no address", "line": rules.line(address)}),
    };
    let report = json!({
        "address": text(address),
        "by_expression": renamed,
        "rewritten": recipients.len() != 1 || *recipients[0] != *address,
        "from_trusted_clients": verdict(router, residents.as_deref(), Client::Trusted, address),
        "from_strangers": verdict(router, residents.as_deref(), Client::Stranger, address),
        "dnssec": match config.dns.dnssec {
            crate::config::raw::Dnssec::Validate if off.get() => "off: the name servers strip signatures",
            crate::config::raw::Dnssec::Validate => "validate",
            crate::config::raw::Dnssec::TrustAd => "trust-ad",
            crate::config::raw::Dnssec::Off => "off",
        },
        "recipients": ways.into_iter().map(|w| w.0).collect::<Vec<_>>(),
        "left_out": recipients.len().saturating_sub(RECIPIENTS_MAX),
    });
    Ok((report, exit.unwrap_or(Exit::Data)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn verdict(router: &Router, residents: Option<&Residents>, client: Client, address: &[u8]) -> String {
    match mailbox::verdict(router, residents, address, access::recipient(router, client, address)) {
        Verdict::Accept | Verdict::AcceptAs(_) => "accepted".into(),
        Verdict::Refuse(r) => {
            let (a, b, c) = r.enhanced;
            format!("{} {a}.{b}.{c} {}", r.code, r.text)
        }
    }
}

/// What is said of a recipient in a local domain.
fn local(router: &Router, to: &[u8]) -> Value {
    json!({"recipient": text(to), "rule": router.rule(split(to).1)})
}

/// What becomes of one recipient that has no mailbox here.
async fn way(config: &Config, router: &Router, lookup: &dyn dns::Lookup, to: &[u8]) -> (Value, Exit) {
    let domain = split(to).1;
    let name = text(domain).to_ascii_lowercase();
    let (rule, limits) =
        (router.rule(domain), |host: &str| settings::destination(&config.destination_for(host, &name)));
    let head = |limits: Limits| json!({"recipient": text(to), "rule": rule, "limits": limits_of(limits)});
    let (value, exit) = match router.plan(domain) {
        Plan::Direct => {
            let mut value = head(limits(""));
            value["destination"] = json!(format!("mx:{name}"));
            mail_exchangers(config, lookup, &name, DIRECT, value).await
        }
        Plan::Relay(hop) => match &hop.target {
            Target::Mx(other) => {
                let mut value = head(limits(""));
                value["destination"] = json!(hop.key);
                mail_exchangers(config, lookup, other, hop.tls, value).await
            }
            _ => fixed(lookup, &hop, head(limits(&host_of(&hop)))).await,
        },
        Plan::Local | Plan::NoRoute => end(head(limits("")), "550 5.4.4: no route"),
    };
    (value, exit)
}

fn end(mut value: Value, what: &str) -> (Value, Exit) {
    value["now"] = json!(what);
    (value, Exit::Data)
}

fn host_of(hop: &NextHop) -> String {
    let host = hop.hosts().first().map(ToString::to_string).unwrap_or_default();
    host.rsplit_once(':').map_or(host.clone(), |(name, _)| name.trim_matches(['[', ']']).to_owned())
}

async fn fixed(lookup: &dyn dns::Lookup, hop: &NextHop, mut value: Value) -> (Value, Exit) {
    let hosts: Vec<String> = hop.hosts().iter().map(ToString::to_string).collect();
    let way = match &hop.target {
        Target::LmtpUnix(path) => format!("LMTP to {}", path.display()),
        Target::Lmtp(host) => format!("LMTP to {host}"),
        Target::Smtp(_) | Target::Mx(_) => format!("SMTP to {}", hosts.join(", then ")),
    };
    value["destination"] = json!(hop.key);
    value["tls"] = json!(tls::policy(hop.tls));
    value["tls_hosts"] = json!(tls::fixed(lookup, hop).await);
    value["now"] = json!(way);
    (value, Exit::Ok)
}

fn limits_of(limits: Limits) -> Value {
    let rate = if limits.rate.count == 0 {
        "none".into()
    } else {
        format!("{} messages in {:?}", limits.rate.count, limits.rate.per)
    };
    json!({
        "connections": limits.connections,
        "messages_per_connection": limits.messages_per_connection,
        "rate": rate,
    })
}

async fn mail_exchangers(
    config: &Config,
    lookup: &dyn dns::Lookup,
    domain: &str,
    policy: TlsPolicy,
    mut value: Value,
) -> (Value, Exit) {
    let bound: Vec<SocketAddr> = config.listeners.iter().flat_map(|l| l.addresses.clone()).collect();
    let is_ours = names::ours(config, bound);
    let asked = dns::plan(lookup, domain, &is_ours, 0);
    let (plan, ttl) = tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| (Err(Fault::Temporary("no answer in time".into())), Duration::ZERO));
    value["kept_seconds"] = json!(ttl.min(dns::Options::default().keep.1).as_secs());
    let plan = match plan {
        Ok(plan) => plan,
        Err(fault) => {
            let [a, b, c] = fault.status();
            let what = if fault.is_permanent() { "returned to its sender" } else { "kept and tried later" };
            value["now"] = json!(format!("{what}: {} {a}.{b}.{c} {fault}", fault.code()));
            return (value, if fault.is_permanent() { Exit::Data } else { Exit::TempFail });
        }
    };
    value["found"] = json!(match plan.origin {
        Origin::Mx => "MX records",
        Origin::Domain => "no MX record: the domain's own addresses",
        Origin::Literal => "an address literal: no look-up",
    });
    value["security"] = json!(word(plan.security));
    let names: Vec<&str> = plan.hosts.iter().map(|h| &*h.name).collect();
    // Of the recipient's domain, which may have another one's mail exchangers.
    let own = value["recipient"].as_str().and_then(|r| r.rsplit_once('@')).map_or("", |(_, own)| own);
    let block = config.narrowing(&names, own);
    value["limits"] = limits_of(settings::destination(&config.narrowed_by(block)));
    value["site"] = match block {
        Some(block) if block.site.is_empty() => json!("of its own: its domain has limits of its own"),
        Some(block) => json!(format!("{}; limits of all that fit {}", site::name(&plan), block.site)),
        None => json!(site::name(&plan)),
    };
    value["hosts"] = plan.hosts.iter().map(host).collect();
    value["tls"] = json!(tls::policy(policy));
    let asked = tls::hosts(lookup, policy, domain, &plan, config.relay.mx_port);
    value["tls_hosts"] = json!(tokio::time::timeout(PATIENCE, asked).await.unwrap_or_default());
    let family = settings::family(config.relay.prefer);
    let most = settings::agent(config).addresses;
    let stops = plan.stops(config.relay.mx_port, family, most, 0, |_| false);
    let stops: Vec<String> =
        stops.iter().map(|s| format!("{} ({})", plan.hosts[s.host].name, s.address)).collect();
    value["now"] = json!(format!("SMTP to {}", stops.join(", then ")));
    (value, Exit::Ok)
}

fn host(host: &mx::Exchange) -> Value {
    let addresses: Vec<String> = host.ipv4.iter().chain(&host.ipv6).map(ToString::to_string).collect();
    json!({
        "name": host.name,
        "preference": host.preference,
        "addresses": addresses,
        "security": word(host.security),
    })
}

fn word(security: Security) -> &'static str {
    match security {
        Security::Secure => "secure",
        Security::Insecure => "insecure",
    }
}

fn print(report: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    writeln!(out, "address       {}", word(&report["address"]))?;
    writeln!(out, "from trusted  {}", word(&report["from_trusted_clients"]))?;
    writeln!(out, "from others   {}", word(&report["from_strangers"]))?;
    let by = &report["by_expression"];
    if !by.is_null() {
        writeln!(
            out,
            "rewritten     {}, line {} of domains.rewrite_recipients",
            word(&by["to"]),
            by["line"]
        )?;
    }
    let ways = report["recipients"].as_array().map_or(&[][..], Vec::as_slice);
    for way in ways {
        if report["rewritten"] == true {
            writeln!(out, "stands for    {}", word(&way["recipient"]))?;
        }
        writeln!(out, "rule          {}", word(&way["rule"]))?;
        for (key, title) in [("destination", "destination"), ("found", "look-up"), ("site", "site")] {
            if !way[key].is_null() {
                writeln!(out, "{title:<13} {}", word(&way[key]))?;
            }
        }
        if !way["security"].is_null() {
            let (security, kept) = (word(&way["security"]), &way["kept_seconds"]);
            writeln!(out, "DNSSEC        {} ({security}); kept for {kept} s", word(&report["dnssec"]))?;
        }
        for host in way["hosts"].as_array().map_or(&[][..], Vec::as_slice) {
            let addresses = host["addresses"].as_array().map_or(&[][..], Vec::as_slice);
            let addresses: Vec<String> = addresses.iter().map(word).collect();
            let preference = host["preference"].as_u64().unwrap_or(0);
            let (name, security) = (word(&host["name"]), word(&host["security"]));
            writeln!(out, "  {preference:>5}  {name}  {}  {security}", addresses.join(" "))?;
        }
        if let l @ Value::Object(_) = &way["limits"] {
            writeln!(
                out,
                "limits        connections {}, messages per connection {}, rate {}",
                l["connections"],
                l["messages_per_connection"],
                word(&l["rate"])
            )?;
        }
        if !way["tls"].is_null() {
            writeln!(out, "TLS           {}", word(&way["tls"]))?;
            tls::print(&way["tls_hosts"], out)?;
        }
        writeln!(out, "now           {}", word(&way["now"]))?;
        rerouted::print(&way["rerouted"], out)?;
    }
    match report["left_out"].as_u64() {
        Some(n) if n > 0 => writeln!(out, "and {n} more"),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;

    fn run(tail: &str, address: &str, json: bool) -> (Exit, String) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("r.toml");
        let head =
            "[server]\nhostname = \"mx.example.net\"\n[dns]\ndnssec = \"off\"\nservers = [\"127.0.0.1:9\"]\n";
        std::fs::write(&config, format!("{head}{tail}")).unwrap();
        let mut out = Vec::new();
        let file = ConfigFile { config };
        let command = ExplainCommand::Route(RouteArgs { file, address: address.into(), json });
        let exit = command.run(&mut out);
        (exit, String::from_utf8(out).unwrap())
    }

    #[test]
    fn routes_need_no_look_up() {
        let tail = "[[route]]\ndomain = \"a.example\"\nnext_hop = \"192.0.2.7:2525\"\n";
        let (exit, text) = run(tail, "x@A.example", false);
        assert_eq!(exit, Exit::Ok, "{text}");
        assert!(text.contains("a route for exactly this domain\n"), "{text}");
        assert!(text.contains("now           SMTP to 192.0.2.7:2525\n"), "{text}");
        assert!(text.contains("from others   554 5.7.1 Relay access denied\n"), "{text}");
        let (_, text) = run(tail, "x@a.example", true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["recipients"][0]["destination"], "192.0.2.7:2525");
    }

    #[test]
    fn literals_and_what_is_no_address() {
        let (exit, text) = run("", "x@[192.0.2.9]", false);
        assert_eq!(exit, Exit::Ok, "{text}");
        assert!(text.contains("now           SMTP to [192.0.2.9] (192.0.2.9:25)\n"), "{text}");
        assert_eq!(run("", "x", false).0, Exit::Usage);
        assert_eq!(run("[domains]\nlocal = [\"b.example\"]\n", "x@b.example", false).0, Exit::Data);
    }

    #[test]
    fn mailboxes() {
        let users = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(users.path(), "ann:{PLAIN}x\n").unwrap();
        let path = users.path().display();
        let tail = format!("[domains]\nlocal = [\"b.example\"]\n[auth]\nusers = \"{path}\"\n");
        let (exit, text) = run(&tail, "Ann+Lists@b.example", false);
        assert_eq!(exit, Exit::Ok, "{text}");
        assert!(text.contains("now           into the mailbox of ann, folder Lists\n"), "{text}");
        assert!(text.contains("from others   accepted\n"), "{text}");
        let (exit, text) = run(&tail, "bob@b.example", false);
        assert!(exit == Exit::Data && text.contains("from others   550 5.1.1 User unknown\n"), "{text}");
    }
}
