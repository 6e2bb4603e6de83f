//! L2: macros of the milter protocol: what is known, and which of it a filter wants to hear with a command.
//!
//! Owns values for as long as they hold: those of a connection until it ends, those of a message until the
//! next begins. A filter that has chosen (SMFIF_SETSYMLIST) is sent what it has chosen and what is known by
//! then; one that has not is sent what belongs to the command. Bounded by the names that there are. Cannot
//! fail.

use super::client::Stage;

/// Macros that we can send, in the order in which they become known.
const NAMES: &[&str] = &[
    "j",
    "_",
    "v",
    "{daemon_name}",
    "{daemon_addr}",
    "{daemon_port}",
    "{client_addr}",
    "{client_port}",
    "{client_name}",
    "{tls_version}",
    "{cipher}",
    "{cipher_bits}",
    "{cert_subject}",
    "{cert_issuer}",
    "{mail_addr}",
    "{auth_authen}",
    "{auth_type}",
    "{rcpt_addr}",
    "i",
];
/// So many of them are of the connection.
const OF_CONNECTION: usize = 14;
/// Stages that can have a list (SMFIM_*).
const STAGES: [Stage; 7] = [
    Stage::Connect,
    Stage::Helo,
    Stage::Mail,
    Stage::Rcpt,
    Stage::Data,
    Stage::EndOfBody,
    Stage::EndOfHeader,
];

/// The macros of one connection to a filter.
#[derive(Debug, Default)]
pub struct Macros {
    /// By stage: places in [`NAMES`].
    chosen: [Option<Vec<usize>>; STAGES.len()],
    /// By place.
    known: [Vec<u8>; NAMES.len()],
}

impl Macros {
    /// The filter wants these at this stage, separated by blanks. Names that nobody here knows are left out.
    pub fn choose(&mut self, stage: u32, names: &[u8]) {
        let Some(list) = self.chosen.get_mut(stage as usize) else { return };
        let words = names.split(|b| matches!(b, b' ' | b',' | b'\t')).filter(|word| !word.is_empty());
        // One letter may be written either way.
        let bare = |name: &[u8]| match name {
            [b'{', letter, b'}'] => vec![*letter],
            name => name.to_vec(),
        };
        let mut places = Vec::new();
        for word in words {
            let place = NAMES.iter().position(|name| name.as_bytes() == bare(word));
            places.extend(place.filter(|place| !places.contains(place)));
        }
        *list = Some(places);
    }

    /// What is sent with the command of `stage`: `macros` are what belongs to it, and are known from now on.
    pub fn with<'a>(
        &'a mut self,
        stage: Stage,
        macros: &[(&'static str, &'a [u8])],
    ) -> Vec<(&'static str, &'a [u8])> {
        if stage == Stage::Mail {
            self.known[OF_CONNECTION..].iter_mut().for_each(Vec::clear);
        }
        if self.chosen.iter().all(Option::is_none) {
            return macros.to_vec();
        }
        for (name, value) in macros {
            if let Some(place) = NAMES.iter().position(|n| n == name) {
                self.known[place] = value.to_vec();
            }
        }
        let list = STAGES.iter().position(|s| *s == stage).and_then(|n| self.chosen[n].as_ref());
        match list {
            None => macros.to_vec(),
            Some(places) => places.iter().map(|place| (NAMES[*place], &self.known[*place][..])).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_sent_as_soon_as_it_is_known() {
        let mut m = Macros::default();
        assert_eq!(m.with(Stage::Mail, &[("{mail_addr}", b"a")]), [("{mail_addr}", &b"a"[..])]);
        m.choose(2, b"{j} nobody_knows, {auth_type} j");
        m.choose(5, b"i {rcpt_addr} {mail_addr}");
        m.choose(6, b"");
        m.choose(7, b"j");
        assert_eq!(m.with(Stage::Connect, &[("j", b"mx"), ("v", b"1")]).len(), 2, "no list, no change");
        let sent = m.with(Stage::Mail, &[("{mail_addr}", b"a"), ("{auth_type}", b"PLAIN")]);
        assert_eq!(sent, [("j", &b"mx"[..]), ("{auth_type}", b"PLAIN")]);
        assert_eq!(m.with(Stage::Rcpt, &[("{rcpt_addr}", b"b")]), [("{rcpt_addr}", &b"b"[..])]);
        assert!(m.with(Stage::EndOfHeader, &[("i", b"7")]).is_empty());
        let end = m.with(Stage::EndOfBody, &[("i", b"7")]);
        assert_eq!(end, [("i", &b"7"[..]), ("{rcpt_addr}", b"b"), ("{mail_addr}", b"a")]);
        // The next message has nothing of this one.
        m.with(Stage::Mail, &[("{mail_addr}", b"c"), ("{auth_type}", b"")]);
        let end = m.with(Stage::EndOfBody, &[("i", b"8")]);
        assert_eq!(end, [("i", &b"8"[..]), ("{rcpt_addr}", b""), ("{mail_addr}", b"c")]);
    }

    #[test]
    fn macros_of_the_connection_come_first() {
        assert_eq!(NAMES[OF_CONNECTION], "{mail_addr}");
        assert_eq!(NAMES[OF_CONNECTION - 1], "{cert_issuer}");
    }
}
