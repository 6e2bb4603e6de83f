//! Sessions that move: whatever way their bytes come.
