//! Documented, implemented and default are one and the same; rules between keys.

use super::diagnose::Report;
use super::raw::Raw;
use super::resolve::Config;
use super::units::Cores;
use super::{Problems, Severity};

const EXAMPLE: &str = include_str!("../../examples/ringpost.toml");
const REFERENCE: &str = include_str!("../../docs/configuration.md");
/// The agreed interface: every key of it must be read.
const AGREED: &str = include_str!("agreed.toml");

const SMALL: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1:25\"\n";

fn errors(text: &str) -> Vec<String> {
    match Config::parse(text, "t") {
        Ok((_, p)) => panic!("no errors, but {p}"),
        Err(Problems(all)) => all
            .into_iter()
            .filter(|p| p.severity == Severity::Error)
            .map(|p| p.key + ": " + &p.message)
            .collect(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    let (_, Problems(all)) = Config::parse(text, "t").unwrap();
    all.into_iter().map(|p| p.key).collect()
}

/// The example with its commented keys (`#key = value`, `#[[list]]`) in force.
fn example_in_full() -> String {
    let key = |l: &str| l.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    EXAMPLE
        .lines()
        .map(|l| l.strip_prefix('#').filter(|rest| key(rest)).unwrap_or(l).to_string() + "\n")
        .collect()
}

/// All keys with their values, list blocks as `list.key`; and whether the key is required.
fn leaves(path: &str, value: &toml::Value, out: &mut Vec<(String, toml::Value)>) {
    match value {
        toml::Value::Table(t) => {
            for (k, v) in t {
                leaves(&if path.is_empty() { k.clone() } else { format!("{path}.{k}") }, v, out);
            }
        }
        toml::Value::Array(a) if a.first().is_some_and(toml::Value::is_table) => leaves(path, &a[0], out),
        other => out.push((path.into(), other.clone())),
    }
}

#[test]
fn documented_is_implemented_is_default() {
    let (mut documented, mut implemented) = (Vec::new(), Vec::new());
    leaves("", &toml::Value::Table(example_in_full().parse().unwrap()), &mut documented);
    leaves("", &toml::Value::try_from(Raw::shape()).unwrap(), &mut implemented);
    // Keys without a default: the example has a sample value for them.
    let sample = |k: &str| {
        k == "server.hostname"
            || ["listener.", "route.", "filter.", "tls.sni.", "destination.for.", "brake.", "dnsbl."]
                .iter()
                .any(|p| k.starts_with(p))
            || ["authenticity.for.", "dkim.key."].iter().any(|p| k.starts_with(p))
    };
    let names = |all: &[(String, toml::Value)]| {
        let mut names: Vec<String> = all.iter().map(|(k, _)| k.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&documented), names(&implemented));
    for (key, value) in &documented {
        let default = &implemented.iter().find(|(k, _)| k == key).unwrap().1;
        assert!(sample(key) || value == default, "{key} is documented as {value}, its default is {default}");
    }
}

#[test]
fn example_as_it_is_gives_the_defaults() {
    let (config, problems) = Config::parse(EXAMPLE, "e").unwrap_or_else(|p| panic!("{p}"));
    let (bare, _) = Config::parse("[server]\nhostname = \"mx1.example.net\"\n", "b").unwrap();
    assert_eq!(Config { hash: 0, ..config }, Config { hash: 0, ..bare });
    assert_eq!(problems.0, []);
}

#[test]
fn reference_is_made_from_the_example() {
    let mut expected = String::new();
    for line in example_in_full().lines() {
        if line.starts_with('[') {
            let (name, about) = line.split_once('#').unwrap_or((line, ""));
            let section = name.trim();
            expected += &format!(
                "\n## `{section}`\n\n{}\n\n| Key | Default | Meaning |\n|---|---|---|\n",
                about.trim()
            );
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let (value, about) = rest.split_once("  # ").unwrap_or((rest, ""));
            expected += &format!("| `{key}` | `{}` | {} |\n", value.trim(), about.trim().replace('|', "\\|"));
        }
    }
    if std::env::var_os("RINGPOST_WRITE_DOCS").is_some() {
        let head = &REFERENCE[..REFERENCE.find("\n## `[").unwrap_or(REFERENCE.len())];
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        #[allow(clippy::disallowed_methods)] // writes the reference on request
        std::fs::write(path, head.to_string() + &expected).unwrap();
        return;
    }
    assert!(REFERENCE.ends_with(&expected), "run RINGPOST_WRITE_DOCS=1 cargo test --lib config");
}

#[test]
fn agreed_interface_is_read_and_what_is_missing_is_said() {
    let (_, report) = Report::read("agreed", AGREED);
    assert_eq!(report.finish(), Problems::default());
    let (_, problems) = Config::parse(AGREED, "agreed").unwrap_or_else(|p| panic!("{p}"));
    assert!(!problems.fatal());
}

#[test]
fn who_speaks_for_others_is_not_everyone() {
    for key in ["proxy_protocol_from", "xclient_from"] {
        let listener =
            format!("{SMALL}[[listener]]\nprotocol = \"smtp\"\naddress = \"0.0.0.0:25\"\n{key} = ");
        let all = errors(&(listener.clone() + "[\"10.0.0.0/8\", \"::/0\"]\n"));
        assert!(all.len() == 1 && all[0].contains("pretend"), "{all:?}");
        let (config, problems) = Config::parse(&(listener + "[\"10.0.0.1\"]\n"), "t").unwrap();
        let l = &config.listeners[0];
        assert_eq!((problems.0.len(), l.proxies.len() + l.forwarders.len()), (0, 1));
    }
}

#[test]
fn small_file_is_enough() {
    let (config, problems) = Config::parse(SMALL, "t").unwrap();
    assert_eq!(problems.0, []);
    assert_eq!(config.listeners[0].addresses.len(), 2);
    assert_eq!(config.relay.helo, "mx.example.net");
    assert_eq!(config.relay.smarthost.unwrap().key, "192.0.2.1:25");
    assert_eq!((config.mta_cores, config.limits.recipients), (Cores::Auto, 1000));
}

#[test]
fn what_changes_security_is_never_ignored() {
    let route = |tls: &str| {
        format!("[[route]]\ndomain = \"a.example\"\nnext_hop = \"lmtp:unix:/run/l\"\ntls = \"{tls}\"\n")
    };
    for (addition, what) in [
        ("[[listener]]\nprotocol = \"managesieve\"\naddress = \"0.0.0.0:4190\"\n".into(), "not available"),
        (route("required"), "neither name nor address"),
        (route("dane"), "neither name nor address"),
    ] {
        let errors = errors(&(SMALL.to_string() + &addition));
        assert!(errors.iter().any(|e| e.contains(what)), "{addition}: {errors:?}");
    }
    let (config, _) = Config::parse(&(SMALL.to_string() + &route("opportunistic")), "t").unwrap();
    assert_eq!(config.routes[0].1.key, "lmtp:unix:/run/l");
    // Who is believed should be on this host.
    for (server, warned) in [("127.0.0.1:53", false), ("[::1]", false), ("192.0.2.53", true)] {
        let text = format!("{SMALL}[dns]\ndnssec = \"trust-ad\"\nservers = [\"{server}\"]\n");
        assert_eq!(warnings(&text) == ["dns.dnssec"], warned, "{server}");
    }
}

#[test]
fn a_password_wants_a_smarthost_that_is_verified() {
    let server = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost_auth = \"/f\"\n";
    assert!(errors(server).iter().any(|e| e.starts_with("relay.smarthost_auth: ")));
    let text = |tls: &str| format!("{server}smarthost = \"smart.example:587\"\n{tls}");
    assert_eq!(warnings(&text("")), ["relay.smarthost_tls"]);
    let good = text("smarthost_tls = \"required\"\n");
    let (config, problems) = Config::parse(&good, "t").unwrap();
    assert_eq!(problems, Problems::default());
    let hop = config.relay.smarthost.unwrap();
    assert_eq!((hop.key.as_str(), hop.login), ("smart.example:587 tls=required with login", true));
}

#[test]
fn name_servers() {
    let text = |servers: &str| format!("{SMALL}[dns]\nservers = [{servers}]\n");
    let good = text("\"192.0.2.53\", \"127.0.0.1:5353\", \"2001:db8::53\", \"[::1]:54\", \"[::1]\"");
    let (config, _) = Config::parse(&good, "t").unwrap();
    let servers: Vec<String> = config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.53:53", "127.0.0.1:5353", "[2001:db8::53]:53", "[::1]:54", "[::1]:53"]);
    for bad in ["\"ns.example\"", "\"\"", "\"192.0.2.53:0\"", "\"[192.0.2.53\""] {
        assert!(errors(&text(bad))[0].contains("is not the address of a name server"), "{bad}");
    }
}

#[test]
fn domains_without_a_route_go_to_their_mx() {
    let text = "[server]\nhostname = \"mx.example.net\"\n[domains]\nrelay = [\"c.example\"]\n\
                [[route]]\ndomain = \"a.example\"\nnext_hop = \"mx:b.example\"\n";
    let (config, problems) = Config::parse(text, "t").unwrap();
    assert!(!problems.fatal() && problems.0.iter().all(|p| p.key != "domains.relay"), "{problems}");
    assert_eq!(config.routes[0].1.key, "mx:b.example tls=opportunistic");
}

#[test]
fn rules_between_keys() {
    for (addition, key) in [
        ("[storage]\nsegment_size = \"512KiB\"\n", "storage.segment_size"),
        ("[storage]\njournal_limit = \"64MiB\"\n", "storage.journal_limit"),
        ("[queue]\nretry_first = \"2h\"\n", "queue.retry_first"),
        ("[limits]\nerrors_soft = 30\n", "limits.errors_soft"),
        ("[limits]\ncommand_line = 100\n", "limits.command_line"),
        ("[memory]\nbudget = \"1KiB\"\n", "memory.spill"),
        ("[domains]\nlocal = [\"a.example\"]\nrelay = [\"A.example\"]\n", "domains.relay"),
        ("[domains]\naliases = \"etc/aliases\"\n", "domains.aliases"),
        ("[domains]\npostmaster = \"root\"\n", "domains.postmaster"),
        ("[[route]]\nnext_hop = \"b.example\"\n", "route[1].domain"),
        ("[[route]]\ndomain = \"b.example\"\n", "route[1].next_hop"),
        ("[[listener]]\nprotocol = \"smtp\"\n", "listener[1].address"),
        (
            "[[listener]]\nprotocol = \"smtp\"\naddress = [\"[::]:25\", \"[::]:25\"]\n",
            "listener[1].address[2]",
        ),
        ("[[destination.for]]\nconnections = 3\n", "destination.for[1]"),
    ] {
        let errors = errors(&(SMALL.to_string() + addition));
        assert!(errors[0].starts_with(&(key.to_string() + ": ")), "{addition}: {errors:?}");
    }
    assert_eq!(errors(""), ["server.hostname: is required"]);
    assert_eq!(
        warnings(&SMALL.replace("[relay]", "[relay]\nnetworks = [\"0.0.0.0/0\"]")),
        ["relay.networks[1]"]
    );
}

#[test]
fn mailboxes_are_for_users_in_local_domains() {
    let parse = |text: &str| Config::parse(&(SMALL.to_string() + text), "t").unwrap().0;
    assert!(!parse("").has_mailboxes());
    let config = parse(
        "[domains]\nlocal = [\"a.example\"]\n[auth]\nusers = \"/u\"\n[cores]\naccess = 3\nshards = 5\n\
         [mailbox]\nquota = \"1GiB\"\nover_quota = \"defer\"\n",
    );
    assert!(config.has_mailboxes());
    assert_eq!(
        (config.access_cores, config.shards, config.mailbox.quota.0),
        (Cores::Count(3), Some(5), 1 << 30)
    );
    for bad in ["2000", "[1, 2]"] {
        let errors = errors(&(SMALL.to_string() + "[cores]\nshards = " + bad + "\n"));
        assert!(errors[0].starts_with("cores.shards: "), "{errors:?}");
    }
}

#[test]
fn mailboxes_are_served_where_there_are_some() {
    let some = "[domains]\nlocal = [\"a.example\"]\npostmaster = \"a@a.example\"\n[auth]\nusers = \"/u\"\n";
    let listener = |protocol: &str, address: &str| {
        format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\n")
    };
    for (text, start) in [
        (listener("pop3", "0.0.0.0:110"), "listener[1].protocol: \"pop3\" needs mailboxes"),
        (some.to_owned() + &listener("pop3s", "0.0.0.0:995"), "listener[1].protocol: \"pop3s\" needs a cert"),
        (some.to_owned() + &listener("lmtp", "[::]:25"), "listener[1].address: LMTP is never served on"),
        (some.to_owned() + &listener("pop3", "unix:/run/p"), "listener[1].address: a socket in the file"),
    ] {
        let errors = errors(&(SMALL.to_string() + &text));
        assert!(errors.len() == 1 && errors[0].starts_with(start), "{text}: {errors:?}");
    }
    let lmtp = some.to_owned() + &listener("lmtp", "unix:/run/lmtp") + &listener("pop3", "0.0.0.0:110");
    let (config, problems) = Config::parse(&(SMALL.to_string() + &lmtp), "t").unwrap();
    assert_eq!(config.listeners[0].paths, [std::path::PathBuf::from("/run/lmtp")]);
    let warned: Vec<&str> = problems.0.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(warned, ["listener[2].tls"]);
}

#[test]
fn destinations_are_narrowed() {
    let text = "[destination]\nconnections = 9\n[[destination.for]]\nsite = \"*.outlook.com\"\n\
                connections = 2\n\
                [[destination.for]]\ndomain = \"b.example\"\nrate = \"5/s\"\n";
    let (config, _) = Config::parse(&(SMALL.to_string() + text), "t").unwrap();
    assert_eq!(config.destination_for("mx.Outlook.com", "x").connections, 2);
    assert_eq!(config.destination_for("outlook.com", "x").connections, 9);
    assert_eq!(config.destination_for("mx", "B.example").rate.to_string(), "5/s");
    assert_eq!(config.destination_for("mx", "B.example").connections, 9);
    // Of mail exchangers one must fit.
    let block = config.narrowing(&["mx.example", "b.outlook.com"], "x").expect("the first block");
    assert_eq!((block.site.as_str(), config.narrowed_by(Some(block)).connections), ("*.outlook.com", 2));
    assert!(config.narrowing(&["mx.example"], "x").is_none());
}

#[test]
fn any_slip_is_reported_with_a_line() {
    // Every key of the example with a value of another type.
    let full = example_in_full();
    for (n, line) in full.lines().enumerate() {
        let Some((key, _)) =
            line.split_once(" = ").filter(|_| line.starts_with(|c: char| c.is_ascii_lowercase()))
        else {
            continue;
        };
        let text: String = full
            .lines()
            .enumerate()
            .map(|(m, l)| if n == m { format!("{key} = 1979-05-27\n") } else { l.to_string() + "\n" })
            .collect();
        let problems = Report::read("t", &text).1.finish();
        assert_eq!(
            problems.0.iter().map(|p| p.at.unwrap().0).collect::<Vec<_>>(),
            [n + 1],
            "{line}\n{problems}"
        );
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    let document = include_str!("../../docs/dependencies.md");
    let mut names: Vec<&String> = ["dependencies", "dev-dependencies"]
        .iter()
        .flat_map(|t| manifest[*t].as_table().unwrap().keys())
        .collect();
    let mut listed: Vec<&str> =
        document.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    names.sort();
    listed.sort_unstable();
    assert_eq!(names, listed);
}

#[test]
fn configuration_of_the_readme_is_good() {
    let readme = include_str!("../../README.md");
    let block = readme.split_once("`/etc/ringpost/ringpost.toml`:\n").unwrap().1;
    let lines = block.lines().take_while(|l| l.is_empty() || l.starts_with("    "));
    let text: String = lines.map(|l| l.trim_start().to_string() + "\n").collect();
    let (config, problems) = Config::parse(&text, "README.md").unwrap_or_else(|p| panic!("{p}"));
    assert_eq!((problems, config.routes.len()), (Problems::default(), 1));
}

#[test]
fn configurations_of_the_quick_start_are_good() {
    let text = include_str!("../../docs/quick-start.md");
    let mut hosts = Vec::new();
    for block in text.split("\n    [server]\n").skip(1) {
        let lines = block.lines().take_while(|l| l.is_empty() || l.starts_with("    "));
        let text: String = lines.map(|l| l.trim_start().to_string() + "\n").collect();
        let read = Config::parse(&format!("[server]\n{text}"), "docs/quick-start.md");
        let (config, problems) = read.unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(problems, Problems::default(), "{}", config.hostname);
        hosts.push((config.hostname, config.listeners.len()));
    }
    let hosts: Vec<_> = hosts.iter().map(|(host, listeners)| (host.as_str(), *listeners)).collect();
    assert_eq!(hosts, [("relay.example.net", 3), ("mx1.example.net", 7), ("store.example.net", 3)]);
}
