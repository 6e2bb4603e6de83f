//! The list of capabilities (RFC 9051 §7.2.2): what a client may use in the state it is in.

use super::number;

/// The state on which the list depends.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<'a> {
    /// The connection is under TLS.
    pub tls: bool,
    /// STARTTLS can be given now.
    pub starttls: bool,
    /// LOGIN is taken now: under TLS, or where the operator allows clear text.
    pub login: bool,
    /// SASL mechanisms that can be used now.
    pub mechanisms: &'a [&'a str],
    /// The user is known.
    pub authenticated: bool,
    /// COMPRESS can be given: it is offered, and not active.
    pub compress: bool,
    /// The largest message that APPEND takes, in octets; none: no limit.
    pub append_limit: Option<u64>,
    /// Quotas are kept.
    pub quota: bool,
}

/// In every state.
const ALWAYS: &str = "IMAP4rev1 IMAP4rev2 SASL-IR ID ENABLE";

/// After login. RFC 7888 §5: LITERAL- or LITERAL+, never both. What IMAP4rev2 has absorbed is named for the
/// clients that do not know it.
const AUTHENTICATED: &str = " LITERAL+ IDLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE CONDSTORE QRESYNC \
    ESEARCH SEARCHRES SORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES WITHIN I18NLEVEL=1 LIST-EXTENDED \
    LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE BINARY MULTIAPPEND OBJECTID SAVEDATE PREVIEW \
    REPLACE UTF8=ACCEPT UNAUTHENTICATE";

/// Appends the names, with one space between them and nothing around them.
pub fn list(out: &mut Vec<u8>, state: &State<'_>) {
    out.extend_from_slice(ALWAYS.as_bytes());
    if state.authenticated {
        out.extend_from_slice(AUTHENTICATED.as_bytes());
        out.extend_from_slice(b" APPENDLIMIT");
        if let Some(limit) = state.append_limit {
            out.push(b'=');
            number(out, limit);
        }
        if state.quota {
            out.extend_from_slice(b" QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE");
        }
    } else {
        out.extend_from_slice(b" LITERAL-");
        // RFC 9051 §6.2.1, §6.2.3.
        if state.starttls && !state.tls {
            out.extend_from_slice(b" STARTTLS");
        }
        if !state.login {
            out.extend_from_slice(b" LOGINDISABLED");
        }
        for mechanism in state.mechanisms {
            out.extend_from_slice(b" AUTH=");
            out.extend_from_slice(mechanism.as_bytes());
        }
    }
    if state.compress {
        out.extend_from_slice(b" COMPRESS=DEFLATE");
    }
}

/// Appends `* CAPABILITY` with the list.
pub fn response(out: &mut Vec<u8>, state: &State<'_>) {
    out.extend_from_slice(b"* CAPABILITY ");
    list(out, state);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(state: State<'_>) -> Vec<String> {
        let mut out = Vec::new();
        list(&mut out, &state);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("  ") && text.trim() == text, "{text}");
        text.split(' ').map(str::to_string).collect()
    }

    fn has(list: &[String], name: &str) -> bool {
        list.iter().any(|n| n == name)
    }

    #[test]
    fn the_list_follows_the_state() {
        let mechanisms = &["PLAIN", "SCRAM-SHA-256"][..];
        let clear = names(State { starttls: true, ..State::default() });
        assert!(has(&clear, "STARTTLS") && has(&clear, "LOGINDISABLED") && has(&clear, "LITERAL-"));
        assert!(!clear.iter().any(|n| n.starts_with("AUTH=")) && !has(&clear, "UIDPLUS"));

        let state = State { tls: true, starttls: true, login: true, mechanisms, ..State::default() };
        let secure = names(state);
        assert!(!has(&secure, "STARTTLS") && !has(&secure, "LOGINDISABLED"));
        assert!(has(&secure, "AUTH=PLAIN") && has(&secure, "AUTH=SCRAM-SHA-256") && has(&secure, "SASL-IR"));

        let state =
            State { authenticated: true, compress: true, quota: true, append_limit: Some(9), ..state };
        let inside = names(state);
        assert!(has(&inside, "LITERAL+") && !has(&inside, "LITERAL-") && has(&inside, "COMPRESS=DEFLATE"));
        assert!(has(&inside, "APPENDLIMIT=9") && has(&inside, "QUOTA=RES-STORAGE"));
        assert!(!inside.iter().any(|n| n.starts_with("AUTH=")) && !has(&inside, "LOGINDISABLED"));
        assert!(!has(&names(State { compress: false, ..state }), "COMPRESS=DEFLATE"));
        assert!(has(&names(State { append_limit: None, ..state }), "APPENDLIMIT"));
    }

    #[test]
    fn no_name_comes_twice() {
        let state = State { authenticated: true, compress: true, quota: true, ..State::default() };
        let mut list = names(state);
        let count = list.len();
        list.sort();
        list.dedup();
        assert_eq!(list.len(), count);
    }
}
