#!/usr/bin/env python3
"""Writes the dashboards in dashboards/: one list of panels each, so that they look and behave alike.

    deploy/grafana/dashboards.py            # writes dashboards/*.json
    deploy/grafana/dashboards.py --check    # ends with 1 if they are not what it would write

The JSON files are what Grafana loads (10 or later); change this file, not them. A test of the program checks that
every series named here exists; tests/interop/prometheus.py asks a real Prometheus each question.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
HEIGHT = 8

# In questions, $i stands for the chosen servers and $r for the time a rate is taken over.
I = 'instance=~"$instance"'


def question(text):
    return text.replace("$i", I).replace("$r", "$__rate_interval")


def target(number, text, legend):
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "expr": question(text),
        "legendFormat": legend,
        "range": True,
        "editorMode": "code",
    }


def series(title, unit, questions, about="", stack=False, low=0, width=8):
    """Lines over time. `questions` are pairs of an expression and the legend of what it gives."""
    custom = {"lineWidth": 1, "fillOpacity": 25 if stack else 8, "showPoints": "never"}
    if stack:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": low, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [target(n, text, legend) for n, (text, legend) in enumerate(questions)],
        "width": width,
    }


def quantiles(title, name, by="", about="", width=8):
    """The median, the 95th and the 99th percentile of a histogram."""
    inner = f"sum by (le{by and ', ' + by}) (rate({name}_bucket{{$i}}[$r]))"
    legend = f" {{{{{by}}}}}" if by else ""
    ask = [(f"histogram_quantile({q}, {inner})", f"p{q * 100:.0f}{legend}") for q in (0.5, 0.95, 0.99)]
    return series(title, "s", ask[1:2] if by else ask, about, width=width)


def number(title, unit, text, steps, about="", width=4, legend=""):
    """One number. `steps`: pairs of a colour and the value from which on it holds."""
    thresholds = [{"color": color, "value": value} for color, value in steps]
    return {
        "type": "stat",
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": thresholds}},
            "overrides": [],
        },
        "options": {
            "colorMode": "background",
            "graphMode": "area",
            "justifyMode": "auto",
            "textMode": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
        "targets": [target(0, text, legend)],
        "width": width,
    }


def bars(title, unit, text, legend, about="", width=12):
    """The present values of several series, as bars."""
    panel = number(title, unit, text, [("blue", None)], about, width, legend)
    panel["type"] = "bargauge"
    panel["options"] = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "showUnfilled": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    panel["targets"][0].update({"instant": True, "range": False})
    return panel


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "width": WIDTH}


GOOD_BAD = [("green", None), ("red", 1)]

DASHBOARDS = {
    "overview": ("ringpost: overview", [
        number("Takes mail", "none", "min(ringpost_ready{$i})", [("red", None), ("green", 1)], "1: new mail is taken"),
        number("Messages in", "msg/s", "sum(rate(ringpost_messages_received_total{$i}[$r]))", [("blue", None)]),
        number("Recipients delivered", "rcpt/s", 'sum(rate(ringpost_deliveries_total{$i,result="delivered"}[$r]))',
               [("blue", None)]),
        number("In the queue", "short", 'sum(ringpost_queue_messages{$i,state="all"})',
               [("green", None), ("orange", 100_000), ("red", 1_000_000)]),
        number("Oldest message", "s", "max(ringpost_queue_oldest_seconds{$i})",
               [("green", None), ("orange", 14_400), ("red", 86_400)]),
        number("Acknowledged, not on the disk", "none", "sum(ringpost_acked_unsynced_total{$i})", GOOD_BAD,
               "0 by construction"),
        row("Mail"),
        series("Messages and recipients", "cps", [
            ("sum(rate(ringpost_messages_received_total{$i}[$r]))", "received"),
            ("sum by (result) (rate(ringpost_deliveries_total{$i}[$r]))", "{{result}}"),
        ]),
        series("Bytes received", "Bps", [("sum(rate(ringpost_bytes_received_total{$i}[$r]))", "received")]),
        series("Refused", "cps", [
            ("sum by (reason) (rate(ringpost_rejections_total{$i}[$r]))", "{{reason}}"),
        ], "Recipients and messages refused, by reason"),
        quantiles("From acceptance to the first attempt", "ringpost_first_attempt_seconds"),
        quantiles("From acceptance to delivery", "ringpost_delivery_seconds"),
        series("Notifications", "cps", [
            ("sum(rate(ringpost_dsn_total{$i}[$r]))", "sent"),
            ("sum by (result) (rate(ringpost_double_bounces_total{$i}[$r]))", "undeliverable, {{result}}"),
        ]),
        row("Sessions"),
        series("Sessions open", "short", [
            ("sum(ringpost_smtp_sessions{$i})", "SMTP"),
            ('sum(ringpost_connections{$i,direction="out"})', "to next hops"),
            ("sum(ringpost_pop3_sessions{$i})", "POP3"),
            ("sum(ringpost_imap_sessions{$i})", "IMAP"),
        ]),
        series("SMTP connections", "cps", [
            ("sum by (direction) (rate(ringpost_connections_total{$i}[$r]))", "{{direction}}"),
            ("sum by (reason) (rate(ringpost_smtp_refused_total{$i}[$r]))", "refused: {{reason}}"),
        ]),
        series("SMTP replies", "cps", [("sum by (class) (rate(ringpost_smtp_replies_total{$i}[$r]))", "{{class}}")]),
        row("Process"),
        series("CPU of all threads", "short", [
            ("sum by (instance) (rate(process_cpu_seconds_total{job=\"ringpost\",$i}[$r]))", "{{instance}}"),
        ], "CPUs used"),
        series("Memory", "bytes", [
            ("sum by (instance) (process_resident_memory_bytes{job=\"ringpost\",$i})", "{{instance}}"),
        ]),
        series("Faults", "short", [
            ("sum(increase(ringpost_session_panics_total{$i}[$r]))", "sessions closed by a fault"),
            ("sum(increase(ringpost_events_dropped_total{$i}[$r]))", "lines of the log lost"),
            ("sum(increase(ringpost_smtp_timeouts_total{$i}[$r]))", "SMTP time-outs"),
        ]),
    ]),
    "queue": ("ringpost: queue and destinations", [
        series("Messages by state", "short", [
            ('sum by (state) (ringpost_queue_messages{$i,state!="all"})', "{{state}}"),
        ], stack=True),
        series("Bytes of the queue", "bytes", [("sum by (core) (ringpost_queue_bytes{$i})", "core {{core}}")], stack=True),
        series("Age of the oldest message", "s", [("max by (core) (ringpost_queue_oldest_seconds{$i})", "core {{core}}")]),
        series("Results of attempts", "cps", [
            ("sum by (result) (rate(ringpost_deliveries_total{$i}[$r]))", "{{result}}"),
        ]),
        series("Sites left alone", "short", [
            ("sum by (core) (ringpost_queue_paused_sites{$i})", "core {{core}}"),
        ], "They could not be reached; they are tried again later"),
        series("Messages that wait for them", "short", [
            ("sum by (core) (ringpost_queue_paused_messages{$i})", "core {{core}}"),
        ], "Due, and waiting for a site that is left alone or for a suspended destination"),
        row("Providers"),
        series("Delivered", "cps", [
            ("sum by (provider) (rate(ringpost_provider_delivered_total{$i}[$r]))", "{{provider}}"),
        ], stack=True),
        series("Put off", "cps", [("sum by (provider) (rate(ringpost_provider_deferred_total{$i}[$r]))", "{{provider}}")]),
        series("Refused for good", "cps", [
            ("sum by (provider) (rate(ringpost_provider_bounced_total{$i}[$r]))", "{{provider}}"),
        ]),
        quantiles("From acceptance to delivery (95th percentile)", "ringpost_provider_delivery_seconds", "provider", width=12),
        bars("Largest destinations, the last hour", "short",
             'topk(20, sum by (destination) (increase(ringpost_destination_recipients_total{$i}[1h])))', "{{destination}}",
             "Recipients tried. Destinations with little mail are together in other"),
        row("Connections to next hops"),
        series("Open", "short", [('sum by (core) (ringpost_connections{$i,direction="out"})', "core {{core}}")]),
        series("Opened and failed", "cps", [
            ('sum(rate(ringpost_connections_total{$i,direction="out"}[$r]))', "opened"),
            ("sum(rate(ringpost_connections_failed_total{$i}[$r]))", "failed"),
            ("sum(rate(ringpost_connection_reuse_total{$i}[$r]))", "messages over one that was open"),
        ]),
        series("Destinations known", "short", [("sum by (core) (ringpost_queue_destinations{$i})", "core {{core}}")]),
        row("Name servers"),
        series("Questions", "cps", [("sum by (result) (rate(ringpost_dns_lookups_total{$i}[$r]))", "{{result}}")]),
        series("Answered without a question", "cps", [("sum(rate(ringpost_dns_cache_hits_total{$i}[$r]))", "known already")]),
        quantiles("Duration of a question", "ringpost_dns_seconds"),
    ]),
    "cores": ("ringpost: cores and disk", [
        series("Busy", "percentunit", [
            ("sum by (core, role) (rate(ringpost_core_cpu_seconds_total{$i}[$r]))", "{{role}} {{core}}"),
        ], "Share of a CPU that the core's thread uses"),
        series("Waiting for a CPU", "percentunit", [
            ("sum by (core, role) (rate(ringpost_core_wait_seconds_total{$i}[$r]))", "{{role}} {{core}}"),
        ], "Share of the time in which it could have run, and others did"),
        series("Last time round", "s", [
            ("max by (core, role) (ringpost_core_beat_age_seconds{$i})", "{{role}} {{core}}"),
        ], "More than a second: the core stands still"),
        quantiles("How late it comes to what is due", "ringpost_core_lag_seconds"),
        series("State", "short", [
            ("sum by (state) (ringpost_core_state{$i})", "{{state}}"),
        ], "Cores by their state", stack=True),
        series("SMTP sessions by core", "short", [("sum by (core) (ringpost_smtp_sessions{$i})", "core {{core}}")]),
        row("Durable writes"),
        quantiles("Duration", "ringpost_fsync_seconds"),
        quantiles("Duration by core (95th percentile)", "ringpost_fsync_seconds", "core"),
        series("Writes", "cps", [("sum by (core) (rate(ringpost_commits_total{$i}[$r]))", "core {{core}}")]),
        series("Records in a write", "short", [
            ("sum by (core) (rate(ringpost_commit_batch_records_sum{$i}[$r])) / "
             "sum by (core) (rate(ringpost_commit_batch_records_count{$i}[$r]))", "core {{core}}"),
        ], "Group commit: how many share a write"),
        series("Bytes in a write", "bytes", [
            ("sum by (core) (rate(ringpost_commit_batch_bytes_sum{$i}[$r])) / "
             "sum by (core) (rate(ringpost_commit_batch_bytes_count{$i}[$r]))", "core {{core}}"),
        ]),
        series("A write has failed", "short", [("max by (core) (ringpost_journal_poisoned{$i})", "core {{core}}")],
               "1: nothing is taken or sent until a restart"),
        row("Files"),
        series("Free on the file system", "bytes", [
            ("ringpost_disk_free_bytes{$i}", "free {{instance}}"),
            ("ringpost_disk_reserve_bytes{$i}", "reserve {{instance}}"),
        ], "At the reserve no new mail is taken"),
        series("Journal: segments", "short", [("sum by (core) (ringpost_journal_segments{$i})", "core {{core}}")]),
        series("Journal: share that is needed", "percentunit", [
            ("sum by (core) (ringpost_journal_live_ratio{$i})", "core {{core}}"),
        ]),
        series("Archive", "bytes", [
            ("sum(ringpost_archive_bytes{$i})", "all"),
            ("sum(ringpost_archive_live_bytes{$i})", "needed"),
        ]),
        series("Index", "bytes", [("sum by (core) (ringpost_index_bytes{$i})", "core {{core}}")]),
        series("Messages in archive and index", "short", [
            ("sum by (core) (ringpost_queue_parked{$i})", "core {{core}}"),
            ("sum(ringpost_index_lag{$i})", "changes that the index has not got"),
        ]),
    ]),
    "access": ("ringpost: POP3 and IMAP", [
        series("Sessions open", "short", [
            ("sum(ringpost_pop3_sessions{$i})", "POP3"),
            ("sum(ringpost_imap_sessions{$i})", "IMAP"),
        ]),
        series("Connections", "cps", [
            ("sum(rate(ringpost_pop3_connections_total{$i}[$r]))", "POP3"),
            ("sum(rate(ringpost_imap_connections_total{$i}[$r]))", "IMAP"),
        ]),
        series("Refused by a limit", "cps", [
            ("sum by (reason) (rate(ringpost_pop3_refused_total{$i}[$r]))", "POP3: {{reason}}"),
            ("sum by (reason) (rate(ringpost_imap_refused_total{$i}[$r]))", "IMAP: {{reason}}"),
        ]),
        row("IMAP"),
        series("Commands", "cps", [
            ("sum by (verb) (rate(ringpost_imap_command_seconds_count{$i}[$r]))", "{{verb}}"),
        ]),
        quantiles("Time for a command (95th percentile)", "ringpost_imap_command_seconds", "verb"),
        quantiles("From the commit of a message to its EXISTS in IDLE", "ringpost_imap_notify_seconds"),
        series("Moves and time-outs", "cps", [
            ("sum by (direction) (rate(ringpost_imap_moves_total{$i}[$r]))", "moved {{direction}}"),
            ("sum(rate(ringpost_imap_timeouts_total{$i}[$r]))", "timed out"),
        ], "Sessions move at their login to the core that owns the account"),
        row("POP3"),
        series("Commands", "cps", [
            ("sum by (verb) (rate(ringpost_pop3_command_seconds_count{$i}[$r]))", "{{verb}}"),
        ]),
        quantiles("Time for a command (95th percentile)", "ringpost_pop3_command_seconds", "verb"),
        series("Messages", "cps", [("sum by (result) (rate(ringpost_pop3_messages_total{$i}[$r]))", "{{result}}")]),
        series("Replies", "cps", [("sum by (class) (rate(ringpost_pop3_replies_total{$i}[$r]))", "{{class}}")]),
        series("In use, timed out, moved", "cps", [
            ("sum(rate(ringpost_pop3_locked_total{$i}[$r]))", "in use by another session"),
            ("sum(rate(ringpost_pop3_timeouts_total{$i}[$r]))", "timed out"),
            ("sum by (direction) (rate(ringpost_pop3_moves_total{$i}[$r]))", "moved {{direction}}"),
        ]),
        series("Access cores: busy", "percentunit", [
            ('sum by (core) (rate(ringpost_core_cpu_seconds_total{$i,role="access"}[$r]))', "core {{core}}"),
        ]),
    ]),
    "security": ("ringpost: TLS and authentication", [
        number("Certificate expires in", "s", "min(ringpost_tls_certificate_expiry_seconds{$i}) - time()",
               [("red", None), ("orange", 172_800), ("green", 1_209_600)], width=8),
        number("New certificates unusable", "none", "max(ringpost_tls_reload_failed{$i})", GOOD_BAD, width=8),
        number("DNSSEC off", "none", "max(ringpost_dnssec_off{$i})", GOOD_BAD, width=8),
        row("Clients"),
        series("Handshakes", "cps", [
            ("sum by (version) (rate(ringpost_tls_handshakes_total{$i}[$r]))", "TLS {{version}}"),
            ("sum by (version) (rate(ringpost_tls_resumptions_total{$i}[$r]))", "resumed, TLS {{version}}"),
        ]),
        series("Handshakes that failed", "cps", [
            ("sum by (reason) (rate(ringpost_tls_handshakes_failed_total{$i}[$r]))", "{{reason}}"),
        ]),
        series("Sessions under TLS", "short", [("sum(ringpost_tls_sessions{$i})", "open")]),
        row("Next hops"),
        series("Handshakes by proof", "cps", [
            ("sum by (proof) (rate(ringpost_tls_outbound_handshakes_total{$i}[$r]))", "{{proof}}"),
        ], "What vouches for the next hop"),
        series("Without what is wanted", "cps", [
            ("sum(rate(ringpost_tls_outbound_handshakes_failed_total{$i}[$r]))", "handshakes failed"),
            ("sum(rate(ringpost_tls_outbound_cleartext_total{$i}[$r]))", "then in clear text"),
            ("sum(rate(ringpost_tls_outbound_missing_total{$i}[$r]))", "given up: TLS required"),
        ]),
        series("PROXY headers", "cps", [("sum by (result) (rate(ringpost_proxy_headers_total{$i}[$r]))", "{{result}}")]),
        row("Logins"),
        series("Good", "cps", [("sum by (mechanism) (rate(ringpost_auth_success_total{$i}[$r]))", "{{mechanism}}")]),
        series("Wrong", "cps", [("sum by (mechanism) (rate(ringpost_auth_failures_total{$i}[$r]))", "{{mechanism}}")]),
        series("No verdict", "cps", [
            ("sum by (reason) (rate(ringpost_auth_broken_total{$i}[$r]))", "{{reason}}"),
            ("sum(rate(ringpost_auth_overflow_total{$i}[$r]))", "too many waited"),
        ]),
        series("Slowed down", "cps", [("sum by (result) (rate(ringpost_login_backoff_total{$i}[$r]))", "{{result}}")],
               "Attempts after failures"),
        series("Passwords", "cps", [
            ("sum(rate(ringpost_auth_hashes_total{$i}[$r]))", "hashed"),
            ("sum(rate(ringpost_auth_cache_hits_total{$i}[$r]))", "right a moment ago"),
        ]),
        series("Passwords that wait", "short", [("sum by (core) (ringpost_auth_waiting{$i})", "core {{core}}")]),
    ]),
}


def laid_out(panels):
    """Gives panels their places: left to right, a new line when one is full."""
    x = y = line = 0
    for id, panel in enumerate(panels, 1):
        width = panel.pop("width")
        height = 1 if panel["type"] == "row" else 4 if panel["type"] == "stat" else HEIGHT
        if x + width > WIDTH:
            x, y, line = 0, y + line, 0
        yield {"id": id, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **panel}
        x, line = x + width, max(line, height)


def dashboard(name, title, panels):
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "hide": 0,
         "current": {}, "options": [], "refresh": 1, "regex": "", "multi": False, "includeAll": False},
        {"name": "instance", "type": "query", "label": "Server", "datasource": DATASOURCE, "hide": 0,
         "definition": "label_values(ringpost_build_info, instance)",
         "query": {"query": "label_values(ringpost_build_info, instance)", "refId": "instance"},
         "current": {"text": "All", "value": "$__all"}, "options": [], "refresh": 2, "regex": "", "sort": 1,
         "multi": True, "includeAll": True, "allValue": ".*"},
    ]
    links = [{"title": "ringpost", "type": "dashboards", "tags": ["ringpost"], "asDropdown": True, "keepTime": True,
              "includeVars": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}]
    return {
        "uid": f"ringpost-{name}",
        "title": title,
        "tags": ["ringpost"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": []},
        "links": links,
        "panels": list(laid_out(panels)),
    }


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    HERE.mkdir(exist_ok=True)
    stale = []
    for name, (title, panels) in DASHBOARDS.items():
        path = HERE / f"ringpost-{name}.json"
        text = json.dumps(dashboard(name, title, panels), indent=1) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.exit(f"not as dashboards.py writes them: {', '.join(stale)}")


if __name__ == "__main__":
    main()
