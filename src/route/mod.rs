//! L2: which next hop a recipient has.
