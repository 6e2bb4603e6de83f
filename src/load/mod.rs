//! L5: load source, sink, ledger, audit.
