//! `[[filter]]`: which programs are asked about mail, and for which listeners.
//!
//! Rules of these blocks only. Errors are reported with their place.

use super::diagnose::Report;
use super::raw::{self, FilterKind, Protocol};
use crate::smtp::serve::filter::{Kind, Options, Place, WhenDown};

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The filter.
    pub options: Options,
    /// What the listeners speak whose mail it sees.
    pub listeners: Vec<Protocol>,
}

pub(super) fn resolve(written: &[raw::Filter], report: &mut Report<'_>) -> Vec<Filter> {
    let mut all: Vec<Filter> = Vec::new();
    for (n, f) in written.iter().enumerate() {
        let at = |key: &str| format!("filter.{n}.{key}");
        for (i, protocol) in f.listeners.iter().enumerate().filter(|(_, p)| p.is_of_mailboxes()) {
            let help = "smtp, submission and submissions have filters";
            report.error(&at(&format!("listeners.{i}")), format!("\"{protocol}\" has no filters"), help);
        }
        if f.listeners.is_empty() {
            report.warning(&at("listeners"), "is empty: it is never asked", "");
        }
        let times = [
            ("connect_timeout", f.connect_timeout),
            ("command_timeout", f.command_timeout),
            ("message_timeout", f.message_timeout),
        ];
        for (key, _) in times.into_iter().filter(|(_, time)| time.0.is_zero()) {
            report.error(&at(key), "must be above 0", "");
        }
        let place = match place(&f.address) {
            Ok(place) => place,
            Err(what) => {
                let help = "write \"inet:127.0.0.1:11332\", \"inet:[::1]:11332\" or \"unix:/path\"";
                report.error(&at("address"), what, help);
                continue;
            }
        };
        let name = if f.name.is_empty() { place.to_string() } else { f.name.clone() };
        let options = Options {
            name,
            kind: match f.kind {
                FilterKind::Milter => Kind::Milter,
                FilterKind::Policy => Kind::Policy,
                FilterKind::Rspamd => Kind::Rspamd,
            },
            place,
            connect: f.connect_timeout.0,
            command: f.command_timeout.0,
            message: f.message_timeout.0,
            when_down: match f.when_down {
                raw::WhenDown::Tempfail => WhenDown::TempFail,
                raw::WhenDown::Accept => WhenDown::Accept,
                raw::WhenDown::Reject => WhenDown::Reject,
            },
            skip_trusted: f.skip_trusted,
            skip_authenticated: f.skip_authenticated,
        };
        if all.iter().any(|other| other.options.name == options.name) {
            report.error(&at("name"), format!("{:?} is the name of another filter", options.name), "");
        }
        all.push(Filter { options, listeners: f.listeners.clone() });
    }
    all
}

fn place(text: &str) -> Result<Place, String> {
    if text.is_empty() {
        return Err("is required".into());
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Place::Unix(path.into()))
        } else {
            Err(format!("{text:?}: the path of a socket must begin with /"))
        };
    }
    let address = text.strip_prefix("inet:").unwrap_or("");
    let address =
        address.strip_prefix("localhost:").map_or(address.into(), |port| format!("127.0.0.1:{port}"));
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Place::Inet(address)),
        _ => Err(format!("{text:?} is not the address of a filter")),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Severity};
    use crate::smtp::serve::filter::{Kind, Place, WhenDown};

    const SMALL: &str = "[server]\nhostname = \"mx.example.net\"\n";

    fn errors(block: &str) -> Vec<String> {
        let problems = Config::parse(&format!("{SMALL}{block}"), "t").unwrap_err();
        let errors = problems.0.into_iter().filter(|p| p.severity == Severity::Error);
        errors.map(|p| p.key + ": " + &p.message).collect()
    }

    #[test]
    fn blocks_in_order() {
        let text = format!(
            "{SMALL}[[filter]]\naddress = \"inet:localhost:11332\"\n\
             [[filter]]\nname = \"grey\"\nkind = \"policy\"\naddress = \"unix:/run/p\"\n\
             when_down = \"accept\"\nlisteners = [\"smtp\"]\nskip_trusted = true\n"
        );
        let filters = Config::parse(&text, "t").unwrap().0.filters;
        let (a, b) = (&filters[0], &filters[1]);
        assert_eq!(a.options.name, "inet:127.0.0.1:11332");
        assert_eq!(
            (a.options.kind, a.options.when_down, a.listeners.len()),
            (Kind::Milter, WhenDown::TempFail, 3)
        );
        assert_eq!(
            (b.options.kind, b.options.when_down, b.listeners.len()),
            (Kind::Policy, WhenDown::Accept, 1)
        );
        assert!(b.options.place == Place::Unix("/run/p".into()) && b.options.skip_trusted);
    }

    #[test]
    fn what_cannot_be() {
        for (block, start) in [
            ("kind = \"milter\"\n", "filter[1].address: is required"),
            ("address = \"127.0.0.1:1\"\n", "filter[1].address: \"127.0.0.1:1\" is not the address"),
            ("address = \"inet:host:1\"\n", "filter[1].address: "),
            ("address = \"inet:127.0.0.1:0\"\n", "filter[1].address: "),
            ("address = \"unix:p\"\n", "filter[1].address: \"unix:p\": the path"),
            ("address = \"unix:/p\"\nlisteners = [\"lmtp\"]\n", "filter[1].listeners[1]: \"lmtp\" has no"),
            ("address = \"unix:/p\"\ncommand_timeout = \"0s\"\n", "filter[1].command_timeout: must be"),
            ("address = \"unix:/p\"\n[[filter]]\naddress = \"unix:/p\"\n", "filter[2].name: "),
        ] {
            let found = errors(&format!("[[filter]]\n{block}"));
            assert!(found.len() == 1 && found[0].starts_with(start), "{block}: {found:?}");
        }
    }
}
