//! Numbers for Prometheus (text format 0.0.4).

use crate::hub::home::HomeProxy;
use crate::hub::watch::{METHODS, Tally};
use crate::transport::Core;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

pub(super) fn text(hub: &Arc<Core<HomeProxy>>, since: Instant) -> String {
    let counters = hub.counters();
    let (activity, records, sessions, tally) =
        hub.with(|home, now| (home.activity(), home.location.records(), home.sessions.len(now), home.tally.clone()));
    let Tally { requests, too_many, ending } = tally;
    let mut out = String::with_capacity(4096);
    let mut put = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "# HELP sipbox_hub_{name} {help}\n# TYPE sipbox_hub_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "sipbox_hub_{name}{labels} {value}");
        }
    };
    put("uptime_seconds", "gauge", "Time since the start.", &[("", since.elapsed().as_secs())]);
    put("bindings", "gauge", "Contacts that are registered.", &[("", activity.bindings as u64)]);
    put("records", "gauge", "Addresses of record that are known.", &[("", records as u64)]);
    put("sessions", "gauge", "Sessions set up through the hub that stand.", &[("", sessions as u64)]);
    put("transactions", "gauge", "Transactions that live.", &[("", activity.transactions as u64)]);
    put("connections", "gauge", "Connections that are open.", &[("", counters.connections)]);
    let labels: Vec<String> =
        METHODS.iter().chain([&"other"]).map(|method| format!("{{method=\"{method}\"}}")).collect();
    let by_method: Vec<(&str, u64)> = labels.iter().map(String::as_str).zip(requests).collect();
    put("requests_total", "counter", "Requests received.", &by_method);
    put(
        "shed_total",
        "counter",
        "Requests answered 503.",
        &[("{why=\"rate\"}", too_many), ("{why=\"ending\"}", ending), ("{why=\"transactions\"}", activity.shed)],
    );
    put(
        "messages_total",
        "counter",
        "Messages, by what became of them.",
        &[
            ("{way=\"received\"}", counters.received),
            ("{way=\"sent\"}", counters.sent),
            ("{way=\"garbage\"}", counters.garbage),
            ("{way=\"unsent\"}", counters.unsent),
        ],
    );
    put(
        "lost_connections_total",
        "counter",
        "Connections refused or closed by the hub.",
        &[
            ("{why=\"too_many\"}", counters.refused_connections),
            ("{why=\"slow\"}", counters.slow_connections),
            ("{why=\"handshake\"}", counters.failed_handshakes),
        ],
    );
    out
}
