//! L4: one question to a name server, and a look at what comes back before it is used.
//!
//! Owns two looks. An answer must repeat the question: hickory demands that of datagrams only, and on an
//! open TCP connection an answer to something else would count as "there is no such record", and mail
//! would be returned for it. And a resolver that is believed is asked for the AD bit (RFC 6840 §5.7),
//! whose value marks every record of its answer (RFC 6840 §5.8), so that whoever reads the records finds
//! the marks that a validation of our own would have left; the way to such a resolver must be as safe as
//! the resolver itself. Must not know what is asked for or why. An answer to another question is an error
//! of that name server: another is asked, or the look-up fails for now.

use futures_core::Stream;
use hickory_resolver::ConnectionProvider;
use hickory_resolver::PoolContext;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle;
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query, ResponseCode};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Opens connections whose answers are looked at.
#[derive(Clone, Default)]
pub struct Careful {
    provider: TokioRuntimeProvider,
    /// What the resolvers say of signatures is believed.
    believing: bool,
}

impl Careful {
    /// For resolvers which are believed, or not, about signatures.
    pub fn new(believing: bool) -> Self {
        Careful { provider: TokioRuntimeProvider::default(), believing }
    }
}

type Opened<C> = Pin<Box<dyn Future<Output = Result<C, NetError>> + Send>>;

impl ConnectionProvider for Careful {
    type Conn = Asking<<TokioRuntimeProvider as ConnectionProvider>::Conn>;
    type FutureConn = Opened<Self::Conn>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        cx: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let opened = self.provider.new_connection(ip, config, cx)?;
        let believing = self.believing;
        Ok(Box::pin(async move { opened.await.map(|connection| Asking { connection, believing }) }))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.provider
    }
}

/// One connection.
#[derive(Clone)]
pub struct Asking<C> {
    connection: C,
    believing: bool,
}

impl<C: DnsHandle> DnsHandle for Asking<C> {
    type Response = Looked<C::Response>;
    type Runtime = C::Runtime;

    fn send(&self, mut request: DnsRequest) -> Self::Response {
        request.metadata.authentic_data |= self.believing;
        let questions = request.queries.clone();
        Looked { answers: self.connection.send(request), questions, believing: self.believing }
    }
}

/// The answers to one request.
pub struct Looked<S> {
    answers: S,
    questions: Vec<Query>,
    believing: bool,
}

impl<S> Looked<S> {
    fn look(&self, answer: DnsResponse) -> Result<DnsResponse, NetError> {
        // RFC 5452 §9.1: an answer is one to the question. Servers that cannot read a question do not
        // repeat it, and say so by their code.
        let says_something = matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if says_something && answer.queries != self.questions {
            return Err(NetError::Message("the name server answered another question"));
        }
        Ok(if self.believing { marked(answer) } else { answer })
    }
}

impl<S> Stream for Looked<S>
where
    S: Stream<Item = Result<DnsResponse, NetError>> + Unpin,
{
    type Item = Result<DnsResponse, NetError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answer = std::task::ready!(Pin::new(&mut self.answers).poll_next(cx));
        Poll::Ready(answer.map(|answer| answer.and_then(|answer| self.look(answer))))
    }
}

fn marked(mut answer: DnsResponse) -> DnsResponse {
    let proof = if answer.metadata.authentic_data { Proof::Secure } else { Proof::Insecure };
    let message = &mut *answer;
    for record in message.answers.iter_mut().chain(&mut message.authorities) {
        record.proof = proof;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::{Message, OpCode};
    use hickory_resolver::proto::rr::rdata::A;
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

    fn response(question: Option<&str>, code: ResponseCode) -> DnsResponse {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        message.queries.extend(question.map(query));
        DnsResponse::from_message(message).unwrap()
    }

    fn query(name: &str) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), RecordType::MX)
    }

    #[test]
    fn an_answer_is_one_to_the_question() {
        let asked = Looked { answers: (), questions: vec![query("example.org.")], believing: false };
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            assert!(asked.look(response(Some("Example.ORG."), code)).is_ok());
            for other in [None, Some("other.org."), Some("org.")] {
                assert!(asked.look(response(other, code)).is_err(), "{other:?}");
            }
        }
        // That says nothing of the name, and is read as a failure.
        assert!(asked.look(response(None, ResponseCode::FormErr)).is_ok());
    }

    #[test]
    fn the_bit_counts_for_all_records() {
        for (bit, proof) in [(true, Proof::Secure), (false, Proof::Insecure)] {
            let mut message = Message::response(1, OpCode::Query);
            message.metadata.authentic_data = bit;
            let record = Record::from_rdata(Name::root(), 60, RData::A(A::new(127, 0, 0, 1)));
            message.add_answers([record.clone(), record.clone()]);
            message.add_authorities([record]);
            let answer = marked(DnsResponse::from_message(message).unwrap());
            assert!(answer.answers.iter().chain(&answer.authorities).all(|r| r.proof == proof));
        }
    }
}
