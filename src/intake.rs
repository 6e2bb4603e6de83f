//! L4: envelope and body in, `Committed` out: the only way in.
