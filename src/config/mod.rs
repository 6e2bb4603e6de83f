//! L5: the configuration file.
