//! L4: a resolver that is believed: what it says of signatures is taken from the AD bit of its answers.
//!
//! Asks for that bit (RFC 6840 §5.7) and marks every record of an answer by it (RFC 6840 §5.8), so that
//! whoever reads the records finds the marks that a validation of our own would have left. Checks nothing:
//! the way to the resolver must be as safe as the resolver itself. Errors are those of the connection.

use futures_core::Stream;
use hickory_resolver::ConnectionProvider;
use hickory_resolver::PoolContext;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle;
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Opens connections whose answers are marked.
#[derive(Clone, Default)]
pub struct Believing(TokioRuntimeProvider);

type Opened<C> = Pin<Box<dyn Future<Output = Result<C, NetError>> + Send>>;

impl ConnectionProvider for Believing {
    type Conn = Asking<<TokioRuntimeProvider as ConnectionProvider>::Conn>;
    type FutureConn = Opened<Self::Conn>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        cx: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let opened = self.0.new_connection(ip, config, cx)?;
        Ok(Box::pin(async { opened.await.map(Asking) }))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.0
    }
}

/// One connection.
#[derive(Clone)]
pub struct Asking<C>(C);

impl<C: DnsHandle> DnsHandle for Asking<C> {
    type Response = Marked<C::Response>;
    type Runtime = C::Runtime;

    fn send(&self, mut request: DnsRequest) -> Self::Response {
        request.metadata.authentic_data = true;
        Marked(self.0.send(request))
    }
}

/// The answers to one question.
pub struct Marked<S>(S);

impl<S> Stream for Marked<S>
where
    S: Stream<Item = Result<DnsResponse, NetError>> + Unpin,
{
    type Item = Result<DnsResponse, NetError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map(|answer| answer.map(|answer| answer.map(marked)))
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
    use hickory_resolver::proto::rr::{Name, RData, Record};

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
