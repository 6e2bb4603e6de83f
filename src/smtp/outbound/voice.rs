//! L2: what a server says to what, to notice replies that are out of step.
//!
//! Replies carry no number: one too many, and each behind it is taken for the answer to the command
//! after its own. The 354 to DATA is no answer to anything else, so what a transaction by DATA was
//! answered is known for certain. If the server's reply to the end of data differs from those to MAIL and
//! RCPT, a later end of data that is answered like one of these was not answered at all. A server that
//! says the same to everything cannot be told from one out of step, nor can one that is so by a whole
//! transaction. Holds two hashes; nothing fails.

use crate::smtp::reply_in::Reply;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Voice {
    /// The last good replies to MAIL and RCPT of a transaction by DATA.
    mail: Option<u64>,
    rcpt: Option<u64>,
    /// Whether the end of data is answered otherwise; `None`: not known.
    apart: Option<bool>,
}

impl Voice {
    /// MAIL of a transaction by DATA was answered so.
    pub fn mail(&mut self, reply: &Reply<'_>) {
        self.mail = Some(hash(reply));
    }

    /// RCPT was answered so.
    pub fn rcpt(&mut self, reply: &Reply<'_>) {
        self.rcpt = Some(hash(reply));
    }

    /// The end of data of a transaction by DATA was answered so.
    pub fn end(&mut self, reply: &Reply<'_>) {
        if self.apart.is_none() {
            self.apart = Some(!self.sounds_like_an_envelope(reply) && !is_about_an_address(reply));
        }
    }

    /// A good reply in the place of that to the end of data answers MAIL or RCPT. `counted`: of BDAT.
    pub fn is_out_of_step(&self, reply: &Reply<'_>, counted: bool) -> bool {
        match self.apart {
            Some(true) => self.sounds_like_an_envelope(reply) || is_about_an_address(reply),
            Some(false) => false,
            None => counted && is_about_an_address(reply),
        }
    }

    fn sounds_like_an_envelope(&self, reply: &Reply<'_>) -> bool {
        let this = Some(hash(reply));
        this == self.mail || this == self.rcpt
    }
}

/// RFC 3463 §3.2: x.1.z is about the addresses, never about the message.
fn is_about_an_address(reply: &Reply<'_>) -> bool {
    reply.enhanced.is_some_and(|[_, subject, _]| subject == 1)
}

/// FNV-1a. A server that makes two replies collide harms its own mail only.
fn hash(reply: &Reply<'_>) -> u64 {
    let codes = [[reply.code, 0, 0, 0], reply.enhanced.map_or([0; 4], |[a, b, c]| [1, a, b, c])];
    let codes = codes.iter().flatten().flat_map(|n| n.to_le_bytes());
    codes
        .chain(reply.text.iter().copied())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(enhanced: Option<[u16; 3]>, text: &str) -> Reply<'_> {
        Reply { code: 250, enhanced, text: text.as_bytes() }
    }

    #[test]
    fn what_differs_is_told_apart() {
        let mut voice = Voice::default();
        let of_address = reply(Some([2, 1, 5]), "Ok");
        assert!(voice.is_out_of_step(&of_address, true) && !voice.is_out_of_step(&of_address, false));
        assert!(!voice.is_out_of_step(&reply(None, "OK"), true), "nothing is known");
        voice.mail(&reply(None, "OK"));
        voice.rcpt(&reply(None, "Accepted"));
        voice.end(&reply(None, "OK id=1"));
        for counted in [true, false] {
            assert!(voice.is_out_of_step(&reply(None, "OK"), counted));
            assert!(voice.is_out_of_step(&reply(None, "Accepted"), counted));
            assert!(voice.is_out_of_step(&of_address, counted));
            assert!(!voice.is_out_of_step(&reply(None, "OK id=2"), counted));
        }
    }

    #[test]
    fn who_says_the_same_to_everything_is_believed() {
        for (said, end) in
            [(reply(None, "ok"), reply(None, "ok")), (reply(None, "ok"), reply(Some([2, 1, 5]), "ok"))]
        {
            let mut voice = Voice::default();
            voice.mail(&said);
            voice.rcpt(&said);
            voice.end(&end);
            assert!(!voice.is_out_of_step(&said, true) && !voice.is_out_of_step(&end, true));
        }
    }
}
