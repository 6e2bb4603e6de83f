//! Tests of the whole: the rules of the source tree.

mod source;
mod tidy;
