//! What `explain route` says of TLS: the policy, and for each host what it comes to, with the TLSA
//! records found. Asks as the server does; makes no connection.

use crate::route::destination::{Host, NextHop, TlsPolicy};
use crate::route::dns::{self, Lookup};
use crate::route::mx::{Exchange, Plan};
use crate::route::tls_policy::{self, Place, Terms};
use serde_json::{Value, json};

/// The policy, for people.
pub fn policy(tls: TlsPolicy) -> &'static str {
    match tls {
        TlsPolicy::None => "none: clear text",
        TlsPolicy::Opportunistic => "opportunistic: any certificate, or clear text",
        TlsPolicy::Required => "required: a certificate of a known authority",
        TlsPolicy::Dane => "DANE where there are secure TLSA records, else opportunistic",
    }
}

/// What the policy comes to at each host of a plan, in its order.
pub async fn hosts(lookup: &dyn Lookup, tls: TlsPolicy, domain: &str, plan: &Plan, port: u16) -> Vec<Value> {
    let mut all = Vec::with_capacity(plan.hosts.len());
    for host in &plan.hosts {
        let place = Place { domain, security: plan.security, host };
        all.push(one(lookup, tls, &place, host, port).await);
    }
    all
}

async fn one(lookup: &dyn Lookup, tls: TlsPolicy, place: &Place<'_>, host: &Exchange, port: u16) -> Value {
    for base in tls_policy::bases(tls, place) {
        let answer = lookup.tlsa(base, port).await;
        match tls_policy::judge(base, &answer) {
            Err(doubt) => return json!({"host": host.name, "demand": format!("not used now: {doubt}")}),
            Ok(None) => {}
            Ok(Some(pins)) => {
                let records = answer.iter().flat_map(|found| &found.records);
                let records: Vec<String> = records.map(ToString::to_string).collect();
                let terms = tls_policy::terms(tls, place, Some((base, pins)));
                return said(&host.name, &terms, Some((format!("_{port}._tcp.{base}"), records)));
            }
        }
    }
    said(&host.name, &tls_policy::terms(tls, place, None), None)
}

fn said(host: &str, terms: &Terms, tlsa: Option<(String, Vec<String>)>) -> Value {
    let mut value = json!({"host": host, "demand": terms.demand.to_string()});
    if terms.demand.is_strict() {
        value["names"] = json!(terms.names);
    }
    if let Some((name, records)) = tlsa {
        (value["tlsa_name"], value["tlsa"]) = (json!(name), json!(records));
    }
    value
}

/// The same for the host that a route names; none if nothing is to be found out.
pub async fn fixed(lookup: &dyn Lookup, hop: &NextHop) -> Vec<Value> {
    let mut all = Vec::new();
    for host in hop.hosts() {
        match host {
            Host::Name(name, port) if hop.tls == TlsPolicy::Dane => match dns::host(lookup, name).await {
                Ok(plan) => all.extend(hosts(lookup, hop.tls, name, &plan, *port).await),
                Err(fault) => all.push(json!({"host": name, "demand": format!("not used now: {fault}")})),
            },
            Host::Name(name, _) => {
                let any = ([0, 0, 0, 0], 0).into();
                all.push(said(name, &tls_policy::fixed(hop.tls, Some(name), any), None));
            }
            Host::Address(address) => {
                all.push(said(&address.to_string(), &tls_policy::fixed(hop.tls, None, *address), None));
            }
        }
    }
    all
}

/// Lines for people.
pub fn print(list: &Value, out: &mut impl std::io::Write) -> std::io::Result<()> {
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for host in list.as_array().map_or(&[][..], Vec::as_slice) {
        writeln!(out, "         {}  {}", word(&host["host"]), word(&host["demand"]))?;
        let list = |key: &str| host[key].as_array().map_or(&[][..], Vec::as_slice).to_vec();
        if !list("names").is_empty() {
            let names: Vec<String> = list("names").iter().map(word).collect();
            writeln!(out, "           names: {}", names.join(", "))?;
        }
        for record in list("tlsa") {
            writeln!(out, "           {} TLSA {}", word(&host["tlsa_name"]), word(&record))?;
        }
    }
    Ok(())
}
